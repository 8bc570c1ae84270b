"""Measure latency on a device.

The folder is named for what it holds and the public function for what it does: both are ``edgevit.bench``.
Importing any module of this folder binds the name to this package, so the package itself can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        """See :func:`edgevit.bench.run.bench`."""
        from edgevit.bench.run import bench

        return bench(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
