"""What a model is for: stated by its metadata, or judged by its outputs."""

from __future__ import annotations

import math
from typing import Literal

from edgevit.model.types import Model

Task = Literal["classification", "detection", "segmentation", "unknown"]

_MANY_ANCHORS = 100


def task_of(model: Model) -> Task:
    """The task that the model's metadata states, else :func:`guess_task`."""
    return model.about.task or guess_task(model)


def guess_task(model: Model) -> Task:
    """Task a vision model probably serves, judged by its outputs; ``unknown`` where nothing fits."""
    images = [spec for spec in model.inputs if len(spec.shape) == 4]
    if not images:
        return "unknown"
    shapes = [spec.shape for spec in model.outputs]
    if any(node.op_type == "NonMaxSuppression" for node in model.proto.graph.node):
        return "detection"
    has_boxes = any(len(shape) in (2, 3) and shape[-1] == 4 for shape in shapes)
    if len(shapes) > 1 and has_boxes:
        return "detection"
    if len(shapes) > 1:
        return "unknown"
    shape = shapes[0]
    if len(shape) == 3 and min(shape[1:]) > 4 and max(shape[1:]) >= _MANY_ANCHORS:
        return "detection"
    if len(shape) == 2 and shape[1] > 1 and shape[0] == images[0].shape[0]:
        return "classification"
    if len(shape) == 4 and math.prod(shape[2:]) > 1 and shape[0] == images[0].shape[0]:
        return "segmentation"
    return "unknown"
