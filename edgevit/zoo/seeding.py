"""Parameters drawn from a seed, for models that have not been trained."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Weights:
    """Seeded parameters. Each is drawn from a stream of its own, named by the parameter.

    Adding or removing a layer therefore leaves every other parameter as it was: a backbone has the same
    weights under every head. Scales keep activations in a realistic range through dozens of layers, and
    batch norm statistics are spread so that a compiler that folds them wrongly is found out.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def convolution(self, name: str, shape: tuple[int, int, int, int]) -> Array:
        """Kaiming normal, fan-out mode, for weights of shape (out, in / groups, height, width)."""
        # Groups cancel: every output channel is read by out / groups channels of its own group.
        return self._normal(name, shape, np.sqrt(2.0 / (shape[0] * shape[2] * shape[3])))

    def depthwise(self, name: str, shape: tuple[int, int, int, int]) -> Array:
        """Kaiming normal for depthwise weights of shape (channels, 1, height, width)."""
        return self._normal(name, shape, np.sqrt(2.0 / (shape[2] * shape[3])))

    def linear(self, name: str, shape: tuple[int, int]) -> Array:
        """Xavier normal, for weights of shape (in, out)."""
        return self._normal(name, shape, np.sqrt(2.0 / sum(shape)))

    def small(self, name: str, size: int, mean: float = 0.0) -> Array:
        """Normal around ``mean`` with deviation 0.1: biases, shifts, running means."""
        return self._normal(name, (size,), 0.1) + np.float32(mean)

    def spread(self, name: str, size: int) -> Array:
        """Uniform in 0.5 to 1.5: scales, running variances."""
        return self._stream(name).uniform(0.5, 1.5, size).astype(np.float32)

    def _normal(self, name: str, shape: tuple[int, ...], deviation: float) -> Array:
        return (self._stream(name).standard_normal(shape) * deviation).astype(np.float32)

    def _stream(self, name: str) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self._seed, zlib.crc32(name.encode())]))
