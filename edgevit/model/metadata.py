"""What a model says of itself beside its graph: task, labels, how images are prepared, how boxes are decoded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic_core import from_json

from edgevit.errors import ModelError, UserError

if TYPE_CHECKING:
    import onnx

PREFIX = "edgevit."
"""Of our keys in an ONNX file's ``metadata_props``; a field of :class:`Metadata` and its JSON text follow."""

Task = Literal["classification", "detection", "segmentation"]

Share = Annotated[float, Field(ge=0, le=1)]


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Preprocessing(_Schema):
    """How an image becomes the input tensor: resized, cropped, then ``(pixel * scale - mean) / std``.

    Resize and crop hold for one input size; :meth:`for_size` gives those of another.

    Attributes:
        resize: pixels of the short side, which keeps the proportions; or height and width, which does not. None leaves
            the image as it is.
        crop: side of the square cut from the middle after that; None for no crop.
        channel_order: of the input tensor's channels.
        scale: factor on pixel values of 0 to 255.
        mean: subtracted from each channel, in the tensor's order.
        std: each channel is divided by it, in the tensor's order.
        interpolation: of the resize.
    """

    resize: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    crop: PositiveInt | None = None
    channel_order: Literal["RGB", "BGR"]
    scale: PositiveFloat = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (1.0, 1.0, 1.0)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @model_validator(mode="after")
    def _crop_fits(self) -> Preprocessing:
        sides = self.resize if isinstance(self.resize, tuple) else (self.resize,)
        if self.crop and any(side and side < self.crop for side in sides):
            raise ValueError(f"the crop of {self.crop} is larger than the resize to {_sides(self.resize)}")
        return self

    def for_size(self, height: int, width: int) -> Preprocessing:
        """The same for a model whose input has this size: resize and crop in proportion.

        A resize to 288 with a crop of 256 becomes 180 and 160 at 160 × 160, so that the image shows the same part of
        the scene. Sizes are rounded to the nearest pixel.

        Raises:
            UserError: nothing says how to fill a rectangle: a crop, and a short side, make squares.
        """
        if self.crop is None and isinstance(self.resize, tuple):
            return self.model_copy(update={"resize": (height, width)})
        if self.resize is None and self.crop is None:
            return self
        if height != width:
            raise UserError(
                f"the preprocessing makes squares ({self.sentence()}), and the model takes {height}x{width}.",
                advice=f"State an exact size: --preprocess …,resize={height}x{width},crop=none.",
            )
        if self.crop is None:
            return self.model_copy(update={"resize": height})
        resize: int | tuple[int, ...] | None = self.resize
        if isinstance(resize, tuple):
            resize = tuple(_in_proportion(side, height, self.crop) for side in resize)
        elif resize is not None:
            resize = _in_proportion(resize, height, self.crop)
        return self.model_copy(update={"resize": resize, "crop": height})

    def sentence(self) -> str:
        """All of it in one line."""
        short_side = "short side " if isinstance(self.resize, int) else ""
        steps = [
            f"resize {short_side}to {_sides(self.resize)} ({self.interpolation})" if self.resize else "no resize",
            f"crop {self.crop}" if self.crop else "no crop",
            self.channel_order,
            f"scale {_fraction(self.scale)}",
        ]
        for name, neutral, values in (("mean", 0, self.mean), ("std", 1, self.std)):
            if any(value != neutral for value in values):
                steps.append(f"{name} {_triple(values)}")
        return ", ".join(steps)


class AnchorLevel(_Schema):
    """The anchors of one feature map.

    Attributes:
        height: cells of the map.
        width: cells of the map.
        sizes: width and height of each anchor of a cell, as shares of the image.
    """

    height: PositiveInt
    width: PositiveInt
    sizes: tuple[tuple[PositiveFloat, PositiveFloat], ...]


class Detection(_Schema):
    """How raw boxes and scores become objects.

    Attributes:
        anchors: by feature map, in the order of the model's outputs; cells row by row, anchors within a cell last.
        center_variance: factor of a decoded centre's offset.
        size_variance: factor of a decoded size's logarithm.
        background: index of the class that means "nothing", None where there is none.
        score_threshold: least score of a candidate.
        top_k: candidates kept of each class before suppression.
        iou_threshold: overlap above which the lower score of two boxes of a class goes.
        max_objects: kept of one image.
    """

    anchors: tuple[AnchorLevel, ...]
    center_variance: PositiveFloat = 0.1
    size_variance: PositiveFloat = 0.2
    background: int | None = 0
    score_threshold: Share = 0.01
    top_k: PositiveInt = 400
    iou_threshold: Share = 0.5
    max_objects: PositiveInt = 200

    def sentence(self) -> str:
        """All of it in one line."""
        boxes = sum(level.height * level.width * len(level.sizes) for level in self.anchors)
        return (
            f"{boxes:,} anchors on {len(self.anchors)} feature maps, scores from {self.score_threshold:g}, "
            f"best {self.top_k} of a class, IoU {self.iou_threshold:g}, at most {self.max_objects} objects"
        )


class Metadata(_Schema):
    """Everything a model says of itself; None where it does not say.

    Attributes:
        task: what it is for.
        labels: names of the classes, by index.
        preprocessing: how an image becomes its input.
        detection: how its outputs become objects.
    """

    task: Task | None = None
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    detection: Detection | None = None


def attach(proto: onnx.ModelProto, metadata: Metadata) -> None:
    """Store ``metadata`` in an ONNX model, in place of what was stored before; other keys stay as they are.

    Each field that says something becomes an entry of ``metadata_props``: key ``edgevit.<field>``, value JSON.
    """
    kept = [(entry.key, entry.value) for entry in proto.metadata_props if entry.key not in _KEYS]
    stated = metadata.model_dump(mode="json")
    ours = [
        (PREFIX + field, json.dumps(value, ensure_ascii=False)) for field, value in stated.items() if value is not None
    ]
    del proto.metadata_props[:]
    for key, value in kept + ours:
        proto.metadata_props.add(key=key, value=value)


def read_metadata(source: onnx.ModelProto | Mapping[str, str], *, where: str | None = None) -> Metadata:
    """What an ONNX model, or its key-value metadata, says of itself.

    Args:
        source: the model, or its ``metadata_props`` as a mapping.
        where: the file it came from, for errors.

    Raises:
        ModelError: a value under one of our keys is damaged, or is not ours; the message names the key.
    """
    entries = source if isinstance(source, Mapping) else {entry.key: entry.value for entry in source.metadata_props}
    fields: dict[str, Any] = {}
    for field in Metadata.model_fields:
        if (text := entries.get(PREFIX + field)) is None:
            continue
        try:
            part = Metadata.model_validate({field: from_json(text)})
        except ValueError as error:
            fault = first_fault(error) if isinstance(error, ValidationError) else str(error)
            raise ModelError(
                f"the metadata under {PREFIX + field!r} cannot be used: {fault}.",
                where=where,
                advice="Export the model again, or remove that key.",
            ) from error
        fields[field] = getattr(part, field)
    return Metadata(**fields)


def first_fault(error: ValidationError) -> str:
    """Where a value departs from the schema and how, in a few words."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


_KEYS = frozenset(PREFIX + field for field in Metadata.model_fields)


def _in_proportion(side: int, size: int, native: int) -> int:
    """``side * size / native``, rounded half up."""
    return (2 * side * size + native) // (2 * native)


def _sides(resize: int | tuple[int, int] | None) -> str:
    return "x".join(map(str, resize)) if isinstance(resize, tuple) else str(resize)


def _triple(values: tuple[float, float, float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else " ".join(f"{value:g}" for value in values)


def _fraction(value: float) -> str:
    inverse = round(1 / value)
    return f"1/{inverse}" if inverse > 1 and 1 / inverse == value else f"{value:g}"
