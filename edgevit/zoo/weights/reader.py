"""Weight files, told apart by what is in them."""

from __future__ import annotations

from pathlib import Path

from edgevit.errors import ModelError, UserError
from edgevit.zoo.seeding import Array

_FORMATS = "Give a .safetensors file, or a .pt, .pth or .bin file of torch.save."

_FOREIGN = (
    (
        b"version https://git-lfs",
        "this is a Git LFS pointer, not the weights themselves.",
        "Fetch the file with git lfs pull, or download it from the model's page.",
    ),
    (b"<", "this is a web page or XML, not weights.", "Download the file itself; the page may ask for a login."),
    (b"\x89HDF", "this is an HDF5 file, as Keras writes.", _FORMATS),
    (b"\x1f\x8b", "this file is compressed with gzip.", "Unpack it first."),
)
"""First bytes of other files, what they are, what to do."""


def read_tensors(path: str | Path) -> dict[str, Array]:
    """The tensors of a weight file by name, without running anything in it.

    Formats are recognised by content: safetensors, and files of ``torch.save`` in the zip format and the one before
    PyTorch 1.6, whose pickles are read as data. Of a training checkpoint the model's weights are taken, the averaged
    ones (EMA) where there are any; prefixes that a training framework put before every name are dropped.

    Args:
        path: of the file.

    Returns:
        Arrays in the file's types, except that bfloat16 has become float32. They may be read-only.

    Raises:
        UserError: there is no such file, or it cannot be read.
        ModelError: it is damaged, or holds no weights.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError("this is a folder.", where=str(path), advice=f"{_FORMATS} It is often model.safetensors.")
    try:
        with path.open("rb") as stream:
            head = stream.read(1024)
        return _read(path, head)
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror or error}.", where=str(path), advice=_FORMATS) from error
    except MemoryError as error:
        raise ModelError("the file does not fit in memory.", where=str(path), advice=_FORMATS) from error


def _read(path: Path, head: bytes) -> dict[str, Array]:
    from edgevit.zoo.weights.safetensors_file import read_safetensors
    from edgevit.zoo.weights.torch_file import read_legacy, read_zip

    where = str(path)
    # Eight bytes of the header's size, any bytes, then the header, which is JSON.
    if head[8:9] == b"{":
        return read_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        return read_zip(path)
    if head.startswith(b"\x80"):
        return read_legacy(path)
    if not head.strip():
        raise ModelError("the file is empty.", where=where, advice="Fetch or save it again.")
    for start, what, advice in _FOREIGN:
        if head.lstrip().startswith(start):
            raise ModelError(what, where=where, advice=advice)
    if head.lstrip().startswith(b"{"):
        if b'"weight_map"' in path.read_bytes():
            raise ModelError(
                "this is the index of weights that are split over several files.",
                where=where,
                advice="Save the model in one file, with max_shard_size='10GB' in save_pretrained.",
            )
        raise ModelError("this is a JSON file, not weights.", where=where, advice=_FORMATS)
    raise ModelError("this is no weight file of a known format.", where=where, advice=_FORMATS)
