"""Weight files: every format read exactly, none run, none trusted."""

from __future__ import annotations

import contextlib
import io
import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit.errors import ModelError, UserError
from edgevit.zoo.weights import read_tensors
from tests.zoo.checkpoints import (
    Array,
    Raw,
    Run,
    bfloat16,
    call,
    legacy_file,
    pickled,
    push,
    run,
    safetensors_file,
    simple,
    state_dict,
    tensor,
    zip_file,
)

FORMATS = ("zip", "legacy")


def write(folder: Path, data: bytes, name: str = "weights.pt") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def saved(folder: Path, content: Any, runs: list[Run], form: str) -> Path:
    return write(folder, zip_file(content, runs) if form == "zip" else legacy_file(content, runs))


def some(seed: int = 0) -> dict[str, Array]:
    draw = np.random.default_rng(seed)
    return {
        "a.weight": draw.standard_normal((3, 4), dtype=np.float32),
        "a.bias": draw.standard_normal(3, dtype=np.float32),
        "b.count": np.array(7),
    }


def assert_equal(got: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("form", FORMATS)
def test_types(tmp_path: Path, form: str) -> None:
    numbers = np.array([[0, 1, 2], [3, 4, 127]])
    tensors = {kind: numbers.astype(kind) for kind in ("f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "?")}
    assert_equal(read_tensors(write(tmp_path, simple(tensors, legacy=form == "legacy"))), tensors)


@pytest.mark.parametrize("form", FORMATS)
def test_bfloat16_becomes_float32(tmp_path: Path, form: str) -> None:
    numbers = np.array([1.0, -2.5, 3e38, 1e-30, 0.0], np.float32)
    stored = Run("BFloat16Storage", "0", bfloat16(numbers))
    content = state_dict({"w": tensor(stored, (5,), legacy=form == "legacy")})
    got = read_tensors(saved(tmp_path, content, [stored], form))["w"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, numbers, rtol=2**-7)
    assert got[1] == -2.5


@pytest.mark.parametrize("form", FORMATS)
def test_views_of_a_shared_storage(tmp_path: Path, form: str) -> None:
    numbers = np.arange(24, dtype=np.float32)
    stored, legacy = run(numbers, "0"), form == "legacy"
    content = {
        "whole": tensor(stored, (4, 6), legacy=legacy),
        "transposed": tensor(stored, (6, 4), (1, 6), legacy=legacy, parameter=True),
        "column": tensor(stored, (4,), (6,), 2, legacy=legacy),
        "corner": tensor(stored, (2, 3), (6, 1), 15, legacy=legacy),
        "scalar": tensor(stored, (), (), 23, legacy=legacy),
        "empty": tensor(stored, (0, 3), legacy=legacy),
        "one row": tensor(stored, (1, 6), (2**47, 1), 6, legacy=legacy),
    }
    whole = numbers.reshape(4, 6)
    wanted = {
        "whole": whole,
        "transposed": whole.T,
        "column": whole[:, 2],
        "corner": whole[2:, 3:],
        "scalar": whole[3, 5],
        "empty": np.zeros((0, 3), np.float32),
        "one row": whole[1:2],
    }
    assert_equal(read_tensors(saved(tmp_path, state_dict(content), [stored], form)), wanted)


def test_views_of_storages_in_old_files(tmp_path: Path) -> None:
    numbers = np.arange(10, dtype=np.float32)
    root = run(numbers, "root")
    part = Run(root.kind, "root", root.data, view=("part", 4, 3))
    content = {"all": tensor(root, (10,), legacy=True), "part": tensor(part, (2,), offset=1, legacy=True)}
    got = read_tensors(write(tmp_path, legacy_file(content, [root])))
    assert_equal(got, {"all": numbers, "part": numbers[5:7]})


@pytest.mark.parametrize("form", FORMATS)
def test_big_endian(tmp_path: Path, form: str) -> None:
    stored = Run("FloatStorage", "0", np.array([1.5, -2.0], ">f4"))
    content = state_dict({"w": tensor(stored, (2,), legacy=form == "legacy")})
    data = (
        zip_file(content, [stored], byte_order="big") if form == "zip" else legacy_file(content, [stored], little=False)
    )
    np.testing.assert_array_equal(read_tensors(write(tmp_path, data))["w"], [1.5, -2.0])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("keys", [["state_dict"], ["model"], ["model_state_dict"], ["model", "state_dict"], ["ema"]])
def test_checkpoints_are_unwrapped(tmp_path: Path, form: str, keys: list[str]) -> None:
    stored = run(np.ones(2, np.float32), "0")
    optimizer = run(np.zeros(2, np.float32), "1")
    legacy = form == "legacy"
    content: Any = state_dict({"module._orig_mod.w": tensor(stored, (2,), legacy=legacy)})
    for key in reversed(keys):
        content = {
            "epoch": 3,
            "loss": 0.5,
            "best": tensor(optimizer, (), (), legacy=legacy),
            "optimizer": {"state": {0: {"exp_avg": tensor(optimizer, (2,), legacy=legacy)}}, "param_groups": [{}]},
            key: content,
        }
    assert_equal(read_tensors(saved(tmp_path, content, [stored, optimizer], form)), {"w": np.ones(2, np.float32)})


def test_averaged_weights_come_first(tmp_path: Path) -> None:
    raw, averaged = run(np.zeros(2, np.float32), "0"), run(np.ones(2, np.float32), "1")
    content = {"state_dict": {"w": tensor(raw, (2,))}, "state_dict_ema": {"w": tensor(averaged, (2,))}}
    np.testing.assert_array_equal(read_tensors(write(tmp_path, zip_file(content, [raw, averaged])))["w"], [1, 1])


def test_other_objects_in_a_checkpoint_are_left_alone(tmp_path: Path) -> None:
    stored = run(np.ones(2, np.float32), "0")
    content = {
        "args": Raw(push(call("argparse", "Namespace")) + push({"lr": 0.1}) + b"b"),
        "rng": call("numpy.core.multiarray", "_reconstruct", Raw(b"cnumpy\nndarray\n"), (0,), "b"),
        "scaler": Raw(
            b"ccopyreg\n_reconstructor\n" + push((Raw(b"cmine\nScaler\n"), 1)) + b"R" + push({"s": 1}) + b"b"
        ),
        "names": Raw(b"(lX\x01\x00\x00\x00xa"),
        "set": call("builtins", "set", ["a"]),
        "state_dict": {"w": tensor(stored, (2,)), "version": "1.0", "none": None},
    }
    assert_equal(read_tensors(write(tmp_path, zip_file(content, [stored]))), {"w": np.ones(2, np.float32)})


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("module", ["os", "posix", "nt"])
def test_pickles_run_nothing(tmp_path: Path, form: str, module: str) -> None:
    marker = tmp_path / "ran"
    attack = call(module, "system", f"touch {marker}")
    stored = run(np.ones(2, np.float32), "0")
    beside = {"attack": attack, "state_dict": {"w": tensor(stored, (2,), legacy=form == "legacy")}}
    assert list(read_tensors(saved(tmp_path, beside, [stored], form))) == ["w"]
    code = f"open({str(marker)!r}, 'w')"
    for root in (
        attack,
        call("builtins", "eval", code),
        call("builtins", "exec", code),
        call("builtins", "getattr", attack, "x"),
        Raw(b"(" + push(code) + b"ibuiltins\neval\n"),
        Raw(b"(cbuiltins\neval\n" + push(code) + b"o"),
        Raw(b"cbuiltins\neval\n" + push((code,)) + b"\x81"),
        Raw(push("builtins") + push("eval") + b"\x93" + push((code,)) + b"R"),
        call("torch._utils", "_rebuild_tensor_v2", attack, 0, (1,), (1,)),
    ):
        with pytest.raises(ModelError):
            read_tensors(saved(tmp_path, root, [], form))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "match"),
    [
        ((3,), (1,), 0, "outside"),
        ((2,), (1,), 1, "outside"),
        ((2,), (2**40,), 0, "outside"),
        ((2**30,), (0,), 0, "larger than itself"),
        ((2**40, 2**40), (0, 0), 0, "larger than any memory"),
        ((0, 2**40, 2**40), (0, 0, 0), 0, "larger than any memory"),
        ((3,), (0,), 0, "repeats"),
        ((2,), (-1,), 1, "no sizes"),
        ((-2,), (1,), 0, "no sizes"),
        ((2,), (1, 1), 0, "no sizes"),
        ((1,) * 40, (1,) * 40, 0, "no sizes"),
        ((2**70,), (1,), 0, "no sizes"),
    ],
)
def test_views_outside_their_storage(
    tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, match: str
) -> None:
    stored = run(np.ones(2, np.float32), "0")
    content = {"layer.weight": tensor(stored, shape, strides, offset)}
    with pytest.raises(ModelError, match=match) as caught:
        read_tensors(write(tmp_path, zip_file(content, [stored])))
    assert caught.value.where
    assert caught.value.advice


@pytest.mark.parametrize("form", FORMATS)
def test_storages_shorter_than_claimed(tmp_path: Path, form: str) -> None:
    stored = Run("FloatStorage", "0", np.ones(2, np.float32), count=100)
    content = {"w": tensor(stored, (100,), legacy=form == "legacy")}
    with pytest.raises(ModelError):
        read_tensors(saved(tmp_path, content, [stored], form))


@pytest.mark.parametrize("form", FORMATS)
def test_missing_storage(tmp_path: Path, form: str) -> None:
    stored = run(np.ones(2, np.float32), "0")
    with pytest.raises(ModelError, match="missing"):
        read_tensors(saved(tmp_path, {"w": tensor(stored, (2,), legacy=form == "legacy")}, [], form))


def test_views_without_end(tmp_path: Path) -> None:
    stored = run(np.ones(10_000, np.float32), "0")
    content = {f"w{index}": tensor(stored, (100, 100), (1, 100)) for index in range(2000)}
    with pytest.raises(ModelError, match="larger than itself"):
        read_tensors(write(tmp_path, zip_file(content, [stored])))


def test_tensors_that_cannot_be_had(tmp_path: Path) -> None:
    complexes = Run("ComplexFloatStorage", "0", np.ones(2, np.complex64))
    with pytest.raises(ModelError, match=r"tensor w.*ComplexFloatStorage"):
        read_tensors(write(tmp_path, zip_file({"w": tensor(complexes, (2,))}, [complexes])))
    quantized = call("torch._utils", "_rebuild_qtensor", 1, 2, 3)
    stored = run(np.ones(2, np.float32), "1")
    with pytest.raises(ModelError, match=r"q is made by torch\._utils\._rebuild_qtensor"):
        read_tensors(write(tmp_path, zip_file({"q": quantized, "w": tensor(stored, (2,))}, [stored])))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "value",
    [
        Raw(b"]" * 200_000 + b"a" * 199_999),
        Raw(b")" + b"\x85" * 200_000),
        Raw(b"}" + b"X\x01\x00\x00\x00a}" * 100_000 + b"s" * 100_000),
        Raw(b"N" + b"\x94" * 300_000),
        Raw(b"}q\x00" + push("model") + b"h\x00s"),
        # A key nested deeper than Python can hash.
        Raw(b"})" + b"\x85" * 200_000 + b"Ns"),
        Raw(b"(" * 200_000),
        Raw(b"2" * 10),
        Raw(b"h\x07"),
        Raw(b"t"),
        Raw(b"\x86"),
        Raw(b"}K\x01(K\x02u"),
        Raw(b"\x8b\xff\xff\xff\x7f"),
        Raw(b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f"),
        Raw(b"\x82\x01"),
        Raw(b"\x97"),
        Raw(b"I12x\n"),
        Raw(b"\xff"),
    ],
    ids=range(18),
)
def test_odd_pickles(tmp_path: Path, form: str, value: Raw) -> None:
    with pytest.raises(ModelError):
        read_tensors(saved(tmp_path, value, [], form))


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_truncated_anywhere(tmp_path: Path, form: str) -> None:
    data = (
        safetensors_file({name: ("F32", array.astype(np.float32)) for name, array in some().items()})
        if form == "safetensors"
        else simple(some(), legacy=form == "legacy")
    )
    for size in range(0, len(data), 7):
        with pytest.raises(ModelError) as caught:
            read_tensors(write(tmp_path, data[:size]))
        assert caught.value.where
        assert caught.value.advice


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_damaged_anywhere(tmp_path: Path, form: str) -> None:
    tensors = {name: array.astype(np.float32) for name, array in some().items()}
    data = (
        safetensors_file({name: ("F32", array) for name, array in tensors.items()})
        if form == "safetensors"
        else simple(tensors, legacy=form == "legacy")
    )
    draw = random.Random(0)
    for _ in range(1000):
        broken = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        with contextlib.suppress(UserError):
            read_tensors(write(tmp_path, bytes(broken)))


def zipped(*entries: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def test_zip_files_that_unpack_to_more_than_themselves(tmp_path: Path) -> None:
    bomb = zipped(("a/data.pkl", b"\0" * 10_000_000), compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    with pytest.raises(ModelError, match="compressed"):
        read_tensors(write(tmp_path, bomb))
    stored = run(np.ones(50_000, np.float32), "0")
    data = bytearray(zip_file({"w": tensor(stored, (50_000,))}, [stored]))
    # In the table at the end, every entry's place becomes that of the largest.
    entry = data.index(b"PK\x01\x02")
    while entry >= 0:
        struct.pack_into("<II", data, entry + 20, 200_000, 200_000)
        entry = data.find(b"PK\x01\x02", entry + 4)
    with pytest.raises(ModelError, match="larger than itself"):
        read_tensors(write(tmp_path, bytes(data)))


def test_a_changed_number_is_noticed(tmp_path: Path) -> None:
    data = bytearray(simple({"w": np.full(1000, 1.5, np.float32)}))
    data[data.index(b"\x00\x00\xc0\x3f" * 8) + 3] ^= 1
    with pytest.raises(ModelError, match="CRC"):
        read_tensors(write(tmp_path, bytes(data)))


def test_safetensors(tmp_path: Path) -> None:
    numbers = np.array([[0.0, 1.5], [-2.0, 100.0]])
    entries = {
        "w32": ("F32", numbers.astype("<f4")),
        "w64": ("F64", numbers.astype("<f8")),
        "w16": ("F16", numbers.astype("<f2")),
        "long": ("I64", numbers.astype("<i8")),
        "byte": ("U8", np.arange(3, dtype=np.uint8)),
        "flag": ("BOOL", np.array([True, False])),
        "scalar": ("F32", np.array(2.5, "<f4")),
        "empty": ("F32", np.zeros((0, 4), "<f4")),
    }
    # The library returns tensors in the order of their places.
    got = read_tensors(write(tmp_path, safetensors_file(entries), "model.safetensors"))
    assert_equal({name: got[name] for name in entries}, {name: array for name, (_, array) in entries.items()})
    half = bfloat16(np.array([1.0, -2.5], np.float32))
    got = read_tensors(write(tmp_path, safetensors_file({"module.w": ("BF16", half)})))
    assert_equal(got, {"w": np.array([1.0, -2.5], np.float32)})


def test_a_header_that_looks_like_a_pickle(tmp_path: Path) -> None:
    data = safetensors_file({"w": ("F32", np.ones(2, np.float32))}, pad_to=128)
    assert data[0] == 0x80
    assert list(read_tensors(write(tmp_path, data))) == ["w"]


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, "tensor w.*F8_E4M3"),
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "damaged"),
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}}, "damaged"),
        ({"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 2]}}, "damaged"),
        ({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 2]}}, "damaged"),
    ],
)
def test_safetensors_that_lie(tmp_path: Path, header: dict[str, Any], match: str) -> None:
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + b"\0\0"
    with pytest.raises(ModelError, match=match):
        read_tensors(write(tmp_path, data))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "w.bin", "w"])
def test_names_of_files_say_nothing(tmp_path: Path, name: str) -> None:
    tensors = {"w": np.ones((2, 2), np.float32)}
    for data in (simple(tensors), simple(tensors, legacy=True), safetensors_file({"w": ("F32", tensors["w"])})):
        assert_equal(read_tensors(str(write(tmp_path, data, name))), tensors)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "Git LFS pointer"),
        (json.dumps({"metadata": {}, "weight_map": {"w": "model-00001-of-00002.safetensors"}}).encode(), "index"),
        (json.dumps({"hidden_size": 192}).encode(), "JSON"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "HDF5"),
        (b"\x1f\x8b\x08\0" + b"\0" * 100, "gzip"),
        (b"\x08\x08\x12\x07pytorch", "no weight file"),
        (pickled({"w": [1.0, 2.0]}), "not written by torch.save"),
        (zipped(("w.npy", b"123")), "no checkpoint of PyTorch"),
        (zipped(("m/data.pkl", pickled({})), ("m/constants.pkl", b"")), "TorchScript"),
        (zip_file([1, 2], []), "no weights by name"),
        (zip_file({"epoch": 3, "history": {}}, []), "its keys are epoch, history"),
        (zip_file(call("torchvision.models.mobilenetv2", "MobileNetV2"), []), "whole object.*MobileNetV2"),
        (legacy_file({}, []).replace(b"\x8a\x02\xe9\x03.", b"\x8a\x02\xea\x03."), "unknown version"),
    ],
    ids=range(15),
)
def test_other_files(tmp_path: Path, data: bytes, match: str) -> None:
    path = write(tmp_path, data)
    with pytest.raises(ModelError, match=match) as caught:
        read_tensors(path)
    assert caught.value.where == str(path)
    assert caught.value.advice


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="folder"):
        read_tensors(tmp_path)
    with pytest.raises(UserError, match="No such file"):
        read_tensors(tmp_path / "absent.pt")
