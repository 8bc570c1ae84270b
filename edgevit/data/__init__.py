"""A data set that needs no download: drawn scenes with exact class labels, boxes and masks::

    from edgevit.data import CLASSES, scene

    drawn = scene("det", "val", 0, size=256)
    print(drawn.image.shape, [CLASSES[index] for index in drawn.classes])

The same task, split, seed and index give the same scene everywhere; at another size, the same scene in other pixels.
"""

from __future__ import annotations

from edgevit.data.export import write as write
from edgevit.data.layout import CLASSES as CLASSES
from edgevit.data.layout import SPLITS as SPLITS
from edgevit.data.layout import TASKS as TASKS
from edgevit.data.layout import Split as Split
from edgevit.data.layout import Task as Task
from edgevit.data.scenes import Scene as Scene
from edgevit.data.scenes import scene as scene

__all__ = ["CLASSES", "SPLITS", "TASKS", "Scene", "Split", "Task", "scene", "write"]
