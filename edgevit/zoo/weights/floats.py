"""Number formats that NumPy lacks."""

from __future__ import annotations

import numpy as np

from edgevit.zoo.seeding import Array


def from_bfloat16(bits: Array) -> Array:
    """The float32 numbers of uint16 bfloat16 patterns, which are their upper halves."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
