"""What the models must compute, by ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgevit.model import Model

Arrays = dict[str, NDArray[Any]]

LONG = 5_000_000
"""Samples of a small model that take a minute or more."""


def small_input(seed: int) -> Arrays:
    """For ``small_model``."""
    return {"image": np.random.default_rng(seed).standard_normal((1, 3, 32, 32), dtype=np.float32)}


def typed_input(seed: int) -> Arrays:
    """For ``typed_model``."""
    draw = np.random.default_rng(seed)
    return {
        "real": draw.standard_normal((2, 3), dtype=np.float32),
        "index": draw.integers(-(2**40), 2**40, (2, 3)),
        "mask": draw.integers(0, 2, (2, 3)).astype(bool),
        "pixel": draw.integers(0, 256, (2, 3), dtype=np.uint8),
        "scale": np.array(draw.random(), np.float32),
    }


def expected(model: Model, inputs: Arrays) -> Arrays:
    """ONNX Runtime's answer."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in model.outputs], session.run(None, inputs), strict=True))


def assert_same(got: Arrays, wanted: Arrays) -> None:
    """Same names, dtypes, shapes and, to 1e-4 of the largest magnitude, values."""
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        if array.dtype.kind == "f":
            np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-4 * float(np.abs(array).max()))
        else:
            np.testing.assert_array_equal(got[name], array)
