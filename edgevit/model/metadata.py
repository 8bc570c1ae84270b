"""What a model says of itself beside its graph: task, labels, how images are prepared, how boxes are decoded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

Task = Literal["classification", "detection", "segmentation"]

Share = Annotated[float, Field(ge=0, le=1)]


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Preprocessing(_Schema):
    """How an image becomes the input tensor: resized, cropped, then ``(pixel * scale - mean) / std``.

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
