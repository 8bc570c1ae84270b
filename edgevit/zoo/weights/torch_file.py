"""Files of ``torch.save``: the zip format, and the one before PyTorch 1.6.

Zip format: the entry ``NAME/data.pkl`` is the pickled object, ``NAME/data/KEY`` the data of a storage, stored and
not compressed; ``NAME/byteorder`` says ``little`` or ``big``.

Format before 1.6: five pickles after one another (a magic number, the version of the protocol, a dict about the
machine, the object, the list of storage keys), then for each key the number of elements (int64) and the elements.

Source: PyTorch's notes on serialization, and the files it writes.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from edgevit.errors import ModelError
from edgevit.zoo.seeding import Array
from edgevit.zoo.weights.checkpoint import state_dict
from edgevit.zoo.weights.pickle_reader import LARGEST, Opaque, PickleMachine, kind_of
from edgevit.zoo.weights.torch_tensors import ByteOrder, Storage, Tensor, machine, storage, to_array

MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of the format before 1.6."""

_PROTOCOL = 1001
_PLAIN = "Save the weights with torch.save(model.state_dict(), FILE), or as safetensors."
_AGAIN = "Fetch or save the file again."


def read_zip(path: Path) -> dict[str, Array]:
    """The state dict in a file of the zip format.

    Raises:
        ModelError: the file is damaged, no file of ``torch.save``, or holds no state dict.
    """
    where = str(path)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        _damaged(where, str(error), error)
    with archive:
        entries = _Entries(archive, path)
        order: ByteOrder = ">" if entries.get("byteorder") == b"big" else "<"
        content = machine(_zip_storage, where).load(entries["data.pkl"])
        return _arrays(state_dict(content, where), lambda key: entries[f"data/{key}"], order, path)


def read_legacy(path: Path) -> dict[str, Array]:
    """The state dict in a file of the format before PyTorch 1.6.

    Raises:
        ModelError: the file is damaged, no file of ``torch.save``, or holds no state dict.
    """
    where, data = str(path), path.read_bytes()
    stream = io.BytesIO(data)
    plain = PickleMachine({}, lambda _: Opaque("persistent id"), where)
    if plain.load(stream) != MAGIC:
        raise ModelError("this pickle was not written by torch.save.", where=where, advice=_PLAIN)
    if plain.load(stream) != _PROTOCOL:
        raise ModelError("this file is of an unknown version of torch.save.", where=where, advice=_PLAIN)
    about = plain.load(stream)
    order: ByteOrder = ">" if isinstance(about, dict) and about.get("little_endian") is False else "<"
    widths: dict[str, int] = {}
    content = machine(lambda identifier: _legacy_storage(identifier, widths), where).load(stream)
    runs = _legacy_runs(stream, len(data), plain.load(stream), widths, order, where)

    def run(key: str) -> bytes:
        if key not in runs:
            _damaged(where, f"storage {key[:40]} is missing")
        start, end = runs[key]
        return data[start:end]

    return _arrays(state_dict(content, where), run, order, path)


class _Entries:
    """Entries of the zip file below its root, held to what ``torch.save`` writes."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._where = str(path)
        infos = {info.filename: info for info in archive.infolist()}
        roots = [name[:-8] for name in infos if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(roots) != 1:
            raise ModelError("this zip file holds no checkpoint of PyTorch.", where=self._where, advice=_PLAIN)
        self._infos = {name[len(roots[0]) :]: info for name, info in infos.items() if name.startswith(roots[0])}
        if "constants.pkl" in self._infos:
            raise ModelError("this file holds a TorchScript program.", where=self._where, advice=_PLAIN)
        # Entries are stored as they are and next to each other: together they are smaller than the file. Entries
        # that unpack to more, or share their bytes, would take memory out of all proportion.
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            _damaged(self._where, "its entries are compressed, which torch.save never does")
        if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
            _damaged(self._where, "its entries are larger than itself")
        if self._infos["data.pkl"].file_size > LARGEST:
            _damaged(self._where, "its pickle is larger than any state dict's")

    def get(self, name: str) -> bytes | None:
        """Contents of an entry, None where there is none."""
        return self[name] if name in self._infos else None

    def __getitem__(self, name: str) -> bytes:
        if name not in self._infos:
            _damaged(self._where, f"{name[:40]} is missing")
        try:
            return self._archive.read(self._infos[name])
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, struct.error) as error:
            _damaged(self._where, str(error), error)


def _arrays(tensors: dict[str, Tensor], data: Callable[[str], bytes], order: ByteOrder, path: Path) -> dict[str, Array]:
    # Tied weights share storages; views of one storage without end would fill the memory when they are copied.
    if sum(tensor.bytes for tensor in tensors.values()) > 8 * path.stat().st_size:
        _damaged(str(path), "its tensors are larger than itself")
    runs = {tensor.storage.key: b"" for tensor in tensors.values()}
    for key in runs:
        runs[key] = data(key)
    return {
        name: to_array(name, tensor, runs[tensor.storage.key], order, str(path)) for name, tensor in tensors.items()
    }


def _legacy_runs(
    stream: io.BytesIO, size: int, keys: Any, widths: dict[str, int], order: ByteOrder, where: str
) -> dict[str, tuple[int, int]]:
    """First byte and end of each storage's data; ``size`` is the file's, ``widths`` bytes of an element by key."""
    runs = {}
    for key in keys if isinstance(keys, list) else ():
        head = stream.read(8)
        if len(head) < 8 or not isinstance(key, str) or key not in widths:
            _damaged(where, "it ends too early")
        (count,) = struct.unpack(f"{order}q", head)
        start = stream.tell()
        end = start + count * widths[key]
        if count < 0 or end > size:
            _damaged(where, "it ends too early")
        runs[key] = (start, end)
        stream.seek(end)
    return runs


def _zip_storage(identifier: Any) -> Storage | Opaque:
    """Of ("storage", class, key, device, elements)."""
    if not isinstance(identifier, tuple) or len(identifier) != 5 or identifier[0] != "storage":
        return Opaque("persistent id")
    _, kind, key, _, size = identifier
    return storage(kind, key, 0, size)


def _legacy_storage(identifier: Any, widths: dict[str, int]) -> Storage | Opaque:
    """Of ("storage", class, key, device, elements, None or (key of the view, first element, elements)).

    Classes of whole models are named by ("module", class, file, its text).
    """
    if isinstance(identifier, tuple) and identifier[:1] == ("module",) and len(identifier) > 1:
        return Opaque(kind_of(identifier[1]))
    if not isinstance(identifier, tuple) or len(identifier) != 6 or identifier[0] != "storage":
        return Opaque("persistent id")
    _, kind, key, _, size, view = identifier
    start = 0
    if view is not None:
        _, start, size = view
    found = storage(kind, key, start, size)
    if isinstance(found, Storage):
        widths[found.key] = found.width
    return found


def _damaged(where: str, detail: str, cause: Exception | None = None) -> NoReturn:
    raise ModelError(f"the file is damaged: {detail[:200]}.", where=where, advice=_AGAIN) from cause
