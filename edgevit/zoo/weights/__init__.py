"""Trained weights for the zoo's models: weight files read without running them, parameters matched by name."""

from __future__ import annotations

from edgevit.zoo.weights.detect import builder_options, classes_in
from edgevit.zoo.weights.importing import Report, import_weights
from edgevit.zoo.weights.reader import read_tensors

__all__ = ["Report", "builder_options", "classes_in", "import_weights", "read_tensors"]
