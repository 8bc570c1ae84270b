"""The shape of a workload in few words, for tables: ``64→256 1x1 of 64x64`` needs no column heads."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from edgevit.tuning.record import About

_WINDOWS = re.compile(
    r"batch (?P<batch>\d+) channels (?P<channels>\d+)"
    r" rows size (?P<height>\d+) output \d+ kernel (?P<tall>\d+) stride (?P<down>\d+) .*"
    r"columns size (?P<width>\d+) output \d+ kernel (?P<wide>\d+) stride (?P<right>\d+)"
)


def short_shape(about: About) -> str:
    """What tells a workload from its like: channels, kernel, image, stride, and what is fused behind it.

    Args:
        about: of the workload; a shape that cannot be shortened stands as it is.
    """
    parts = dict(_named(part) for part in about.shape.split("; "))
    shorten = _FORMS.get(about.family)
    try:
        shape = shorten(parts) if shorten else _plain(parts)
    except KeyError:  # a record of another version
        shape = about.shape
    return f"{shape} +{about.epilogue.replace(' ', '+')}" if about.epilogue else shape


def _named(part: str) -> tuple[str, str]:
    name, _, value = part.partition(" ")
    return name, value


def _conv(parts: Mapping[str, str]) -> str:
    channels = f"{parts['sources'].replace('x', '+')}→{parts['channels']}"
    image = _image(parts["batch"], parts["height"], parts["width"])
    groups = "" if parts["groups"] == "1" else f" groups {parts['groups']}"
    return f"{channels} {parts['kernel']}{_stride(*parts['strides'].split('x'))} of {image}{groups}"


def _windows(parts: Mapping[str, str]) -> str:
    found = _WINDOWS.match(parts["windows"])
    if found is None:
        raise KeyError("windows")
    kind = f"{parts['kind']} " if "kind" in parts else ""
    image = _image(found["batch"], found["height"], found["width"])
    kernel = f"{found['tall']}x{found['wide']}{_stride(found['down'], found['right'])}"
    return f"{kind}{found['channels']} {kernel} of {image}"


def _matmul(parts: Mapping[str, str]) -> str:
    batch = "" if parts["batch"] in ("-", "1") else f"{parts['batch']}: "
    return f"{batch}{parts['rows']}x{parts['depth']} · {parts['depth']}x{parts['columns']}"


def _attention(parts: Mapping[str, str]) -> str:
    queries, keys, *_ = (size.split("x")[0] for size in parts["sizes"].strip("()").split(") ("))
    return f"{parts['heads']} heads of {parts['dim']}, {queries}x{keys}"


def _reduce(parts: Mapping[str, str]) -> str:
    return f"{parts['kind']} {parts['shape']} over {parts['axes']}"


def _resize(parts: Mapping[str, str]) -> str:
    return f"{parts['mode']} {parts['shape']} to {parts['size']}"


def _sized(parts: Mapping[str, str]) -> str:
    return parts["shape"]


def _plain(parts: Mapping[str, str]) -> str:
    return " ".join(f"{name} {value}".strip() for name, value in parts.items())


def _image(batch: str, height: str, width: str) -> str:
    # Convolutions without a window see the image as one row.
    return "x".join(extent for extent, least in ((batch, "1"), (height, "1"), (width, "")) if extent != least)


def _stride(down: str, right: str) -> str:
    if down == right:
        return "" if down == "1" else f"/{down}"
    return f"/{down}x{right}"


_FORMS: dict[str, Callable[[Mapping[str, str]], str]] = {
    "attention": _attention,
    "conv": _conv,
    "depthwise": _windows,
    "matmul": _matmul,
    "normalise": _sized,
    "pointwise": _sized,
    "pool": _windows,
    "reduce": _reduce,
    "resize": _resize,
    "softmax": _sized,
    "winograd": _conv,
}
