"""Constants that reach a kernel's text unchanged.

TVM prints a float32 with seven digits, two fewer than it takes to tell all float32 numbers apart. Those that would
change are printed as a call of a "function" whose name is the full number and a multiplication sign:
``1.33797184e-01f*(1.000000e+00f)`` is that number in OpenCL C and in the Metal language.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm_ffi.structural import structural_map


def exact_literals(body: Any) -> Any:
    """The statement, with every float32 constant such that its text is read back as the same number."""
    return structural_map(body, [(tirx.FloatImm, _exact)])


def _exact(number: Any) -> Any:
    if str(number.ty) != "float32" or not np.isfinite(number.value):
        return number
    value = np.float32(number.value)
    if np.float32(f"{value:.6e}") == value:
        return number
    return tirx.call_pure_extern("float32", f"{value:.8e}f*", tirx.const(1.0, "float32"))
