"""From a picture to a tensor: sizes, channels, arithmetic, and every kind of file."""

from __future__ import annotations

import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from PIL import Image

from edgevit.accuracy.images import prepare, read_image, room_for, to_rgb
from edgevit.errors import UserError
from edgevit.model.metadata import Preprocessing
from edgevit.model.metadata_sources import PRESETS

Array = npt.NDArray[Any]

RAW = Preprocessing(channel_order="RGB", scale=1.0)


def noise(height: int, width: int, seed: int = 0) -> Array:
    """Smooth enough that a shift by half a pixel shows, rough enough that another filter does.

    Far enough from 0 and 255 that no filter overshoots: Pillow cuts off after each of two passes.
    """
    coarse = np.random.default_rng(seed).integers(70, 186, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    fine = np.random.default_rng(seed + 1).integers(-10, 11, (height, width, 3))
    return (np.kron(coarse, np.ones((4, 4, 1)))[:height, :width] + fine).astype(np.uint8)


def resized(pixels: Array, height: int, width: int, mode: str) -> Array:
    """Antialiased resize by ONNX Runtime's operator, which shares nothing with Pillow; float32 of 0 to 255."""
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 3, height, width])
    node = helper.make_node(
        "Resize", ["x", "", "", "sizes"], ["y"], mode=mode, antialias=1, cubic_coeff_a=-0.5, exclude_outside=1
    )
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *pixels.shape[:2]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, height, width])],
        [sizes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": pixels.astype(np.float32).transpose(2, 0, 1)[None]})[0])


@pytest.mark.parametrize(("height", "width"), [(300, 400), (401, 333), (100, 150)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("preset", ["mobilevit", "imagenet"])
def test_a_short_side_and_a_centre_crop(preset: str, interpolation: str, height: int, width: int) -> None:
    stated = PRESETS[preset].model_copy(update={"interpolation": interpolation})
    assert isinstance(stated.resize, int)
    assert stated.crop
    pixels = noise(height, width)
    actual = prepare(Image.fromarray(pixels), stated, stated.crop, stated.crop)

    tall, wide = (int(side * stated.resize / min(height, width)) for side in (height, width))
    top, left = (round((side - stated.crop) / 2) for side in (tall, wide))
    mode = {"bilinear": "linear", "bicubic": "cubic"}[interpolation]
    whole = resized(pixels, tall, wide, mode)
    expected = whole[:, :, top : top + stated.crop, left : left + stated.crop] / 255
    if preset == "mobilevit":
        expected = expected[:, [2, 1, 0]]
    else:
        expected = (expected - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) / np.reshape(
            [0.229, 0.224, 0.225], (3, 1, 1)
        )
    assert actual.dtype == np.float32
    assert actual.shape == (1, 3, stated.crop, stated.crop)
    assert actual.flags.c_contiguous
    # Pillow rounds to 8 bits after each of two passes.
    assert np.abs(actual - expected).max() <= 1.6 / 255 / min(stated.std)
    assert np.abs(actual - expected).mean() <= 0.5 / 255 / min(stated.std)


def test_an_exact_size_ignores_proportions() -> None:
    pixels = noise(90, 160)
    actual = prepare(Image.fromarray(pixels), RAW.model_copy(update={"resize": (64, 48)}), 64, 48)
    assert np.abs(actual - resized(pixels, 64, 48, "linear")).max() <= 1.6


def test_arithmetic_of_a_single_colour() -> None:
    image = Image.new("RGB", (40, 30), (255, 102, 0))
    stated = Preprocessing(
        resize=20, crop=16, channel_order="RGB", scale=1 / 255, mean=(0.5, 0.4, 0.25), std=(0.5, 0.2, 0.125)
    )
    tensor = prepare(image, stated, 16, 16)
    np.testing.assert_allclose(
        tensor, np.broadcast_to(np.reshape([1.0, 0.0, -2.0], (1, 3, 1, 1)), (1, 3, 16, 16)), atol=1e-6
    )
    # Mean and deviation belong to the tensor's channels, whichever they are.
    swapped = prepare(image, stated.model_copy(update={"channel_order": "BGR"}), 16, 16)
    np.testing.assert_allclose(swapped[0, :, 0, 0], [-1.0, 0.0, 6.0], atol=1e-6)


def test_pixels_pass_unchanged_where_nothing_is_asked_of_them() -> None:
    pixels = noise(24, 36)
    assert np.array_equal(prepare(Image.fromarray(pixels), RAW, 24, 36)[0].transpose(1, 2, 0), pixels)
    same = RAW.model_copy(update={"resize": 24, "interpolation": "bicubic"})
    assert np.array_equal(prepare(Image.fromarray(pixels), same, 24, 36)[0].transpose(1, 2, 0), pixels)


@pytest.mark.parametrize(("width", "left"), [(20, 2), (21, 2), (19, 2), (17, 0), (16, 0)])
def test_the_crop_is_centred(width: int, left: int) -> None:
    """An odd rest is shared as torchvision shares it: half to even."""
    row = np.arange(width, dtype=np.uint8)
    pixels = np.broadcast_to(row[None, :, None], (16, width, 3))
    tensor = prepare(Image.fromarray(np.ascontiguousarray(pixels)), RAW.model_copy(update={"crop": 16}), 16, 16)
    assert tensor[0, 0, 0, 0] == left


def test_a_gradient_stays_a_gradient() -> None:
    """Halving keeps the mean of two neighbours: no shift by half a pixel, no dropped rows."""
    row = np.arange(0, 200, 2, dtype=np.uint8)
    pixels = np.ascontiguousarray(np.broadcast_to(row[None, :, None], (100, 100, 3)))
    tensor = prepare(Image.fromarray(pixels), RAW.model_copy(update={"resize": 50}), 50, 50)
    np.testing.assert_allclose(tensor[0, 0, 0, 2:-2], 4.0 * np.arange(2, 48) + 1, atol=0.5)


def test_what_does_not_fit_the_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"30x40 becomes 48x64, and the model takes 48x48.*crop"):
        prepare(Image.new("RGB", (40, 30)), RAW.model_copy(update={"resize": 48}), 48, 48)
    with pytest.raises(UserError, match="smaller than the crop of 32"):
        prepare(Image.new("RGB", (40, 30)), RAW.model_copy(update={"crop": 32}), 32, 32)
    with pytest.raises(UserError, match="too long and narrow"):
        prepare(Image.new("RGB", (20_000, 1)), RAW.model_copy(update={"resize": 256, "crop": 224}), 224, 224)


# Kinds of pictures


def test_modes() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    threefold = np.repeat(grey[..., None], 3, 2)
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(grey))), threefold)
    # Transparency is dropped: what is under it shows.
    for opaque in (0, 128, 255):
        alpha = np.full_like(grey, opaque)
        assert np.array_equal(np.asarray(to_rgb(Image.fromarray(np.dstack([grey, alpha]), "LA"))), threefold)
        assert np.array_equal(np.asarray(to_rgb(Image.fromarray(np.dstack([threefold, alpha]), "RGBA"))), threefold)
    bits = Image.fromarray(grey).point(lambda value: 255 * (value > 100), "1")
    assert np.array_equal(np.asarray(to_rgb(bits)), np.where(threefold > 100, 255, 0))
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    assert to_rgb(cyan).getpixel((0, 0)) == (0, 255, 255)


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=bytes([0, 255]))
    read = to_rgb(read_image(tmp_path / "palette.png"))
    assert (read.getpixel((0, 0)), read.getpixel((1, 0))) == ((10, 20, 30), (200, 100, 50))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_become_eight(tmp_path: Path, suffix: str) -> None:
    """Not cut off at 255, and not taken modulo it."""
    wide = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    Image.fromarray(wide).save(tmp_path / f"wide.{suffix}")
    read = np.asarray(to_rgb(read_image(tmp_path / f"wide.{suffix}")))
    assert read[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


@pytest.mark.parametrize("mode", ["I", "F", "LAB", "HSV"])
def test_modes_without_a_defined_range_are_refused_by_name(mode: str) -> None:
    with pytest.raises(UserError, match=f"mode '{mode}'"):
        to_rgb(Image.new(mode, (8, 8)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    """The corner that is red in the file ends where the EXIF standard puts it."""
    image = Image.new("RGB", (48, 32), (0, 0, 0))
    image.paste((255, 0, 0), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    image.save(path, exif=exif, quality=95)
    read = read_image(path)
    # Where row 0 and column 0 of the file belong, by orientation.
    rows, columns = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}[orientation]
    assert read.size == ((48, 32) if orientation <= 4 else (32, 48))
    pixels = np.asarray(read)
    row, column = (4 if rows == "t" else -4), (4 if columns == "l" else -4)
    assert pixels[row, column, 0] > 200
    assert (pixels[..., 0] > 128).sum() == pytest.approx(256, abs=20)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "webp", "bmp"])
def test_damaged_files_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise(64, 64)).save(whole)
    data = whole.read_bytes()
    assert read_image(whole).size == (64, 64)
    for name, damaged in (("cut", data[: len(data) // 2]), ("text", b"no image"), ("empty", b"")):
        path = tmp_path / f"{name}.{suffix}"
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{name}.{suffix}.*cannot read the image"):
            read_image(path)
    with pytest.raises(UserError, match="No such file"):
        read_image(tmp_path / f"missing.{suffix}")


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """A few bytes that say they are ten gigapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    with pytest.raises(UserError, match="cannot read the image"):
        read_image(path)


def test_many_threads_leave_the_filters_of_warnings_as_they_were(tmp_path: Path) -> None:
    """And none of them sees a warning, or lets a picture of too many pixels pass, because another has left."""
    Image.new("P", (16, 16)).save(tmp_path / "palette.png", transparency=bytes([0, 255]))
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png")
    before = list(warnings.filters)

    def look(number: int) -> str:
        name = "huge" if number % 4 == 0 else "palette"
        try:
            with room_for(tmp_path / f"{name}.png"):
                read_image(tmp_path / f"{name}.png")
        except UserError as error:
            return f"{name}: {error.message}"
        return name

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(look, range(200)))
    assert warnings.filters == before
    assert {text.split(":")[0] for text in said} == {"huge", "palette"}
    assert all(("decompression bomb" in text) == text.startswith("huge") for text in said)
