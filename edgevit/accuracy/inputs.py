"""Reproducible inputs for a model nobody has data for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgevit.errors import UserError

_TOKEN_RANGE = 100


class Spec(Protocol):
    """What must be known of an input: a model's description and a manifest's both say it."""

    @property
    def name(self) -> str:
        """Its name in the graph."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Static dimensions."""

    @property
    def dtype(self) -> str:
        """numpy's name of the element type."""


def seeded_inputs(specs: Sequence[Spec], seed: int) -> dict[str, npt.NDArray[Any]]:
    """Inputs that the same seed always gives, by input name.

    Floats are standard normal, booleans fair coins. ``int8`` and all unsigned types use their full range, as
    images and quantized tensors do; wider signed integers are 0 to 99, small enough to be token ids or
    indices of most models.

    Each input has a generator of its own, PCG64 seeded with (seed, position), so that one input's shape does
    not change the next. PCG64's bits never change between NumPy versions; what is drawn from them may, for
    improvements that NumPy's release notes announce (NEP 19).

    Args:
        specs: names, shapes and dtypes.
        seed: not negative.

    Raises:
        UserError: an input of a dtype with no rule above.
    """
    return {
        spec.name: _draw(spec, np.random.Generator(np.random.PCG64([seed, position])))
        for position, spec in enumerate(specs)
    }


def _draw(spec: Spec, generator: np.random.Generator) -> npt.NDArray[Any]:
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:
        dtype = np.dtype(object)
    values: npt.NDArray[Any]
    if dtype.kind == "f":
        # Drawn in float64 and rounded, so that fp16 and fp32 models see the same values.
        values = generator.standard_normal(spec.shape)
    elif dtype.kind == "b":
        values = generator.integers(0, 2, spec.shape)
    elif dtype.kind == "u" or dtype == np.int8:
        limits = np.iinfo(dtype)
        values = generator.integers(limits.min, limits.max, spec.shape, dtype=dtype, endpoint=True)
    elif dtype.kind == "i":
        values = generator.integers(0, _TOKEN_RANGE, spec.shape)
    else:
        raise UserError(
            f"cannot make up values of dtype {spec.dtype}.",
            where=f"input {spec.name}",
            advice="Convert the model's input to a float, integer or boolean type.",
        )
    return values.astype(dtype)
