"""Compile, check and benchmark mobile vision transformers on phones and boards.

Five lines from a model to a verdict::

    import edgevit

    model = edgevit.load("mobilevit_xxs.onnx")
    artifact = edgevit.compile(model, "host")
    with edgevit.connect() as session:
        print(edgevit.check(artifact, session, model).passed)
        print(edgevit.bench(artifact, session).edgevit.latency.p50)

Everything heavy is imported when first used: ``import edgevit`` costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgevit.accuracy.check import check as check
    from edgevit.artifact import Artifact as Artifact
    from edgevit.artifact import load_artifact as load_artifact
    from edgevit.bench.run import bench as bench
    from edgevit.compiler.compile import compile_model as compile  # noqa: A004, F401
    from edgevit.device.connect import connect as connect
    from edgevit.errors import EdgevitError as EdgevitError
    from edgevit.model import Model as Model
    from edgevit.model import load as load
    from edgevit.targets import Target as Target
    from edgevit.targets import get_target as get_target

# ONNX Runtime's builds may report usage over the network unless told not to before their first import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Artifact": "edgevit.artifact:Artifact",
    "EdgevitError": "edgevit.errors:EdgevitError",
    "Model": "edgevit.model:Model",
    "Target": "edgevit.targets:Target",
    "bench": "edgevit.bench",
    "check": "edgevit.accuracy.check:check",
    "compile": "edgevit.compiler.compile:compile_model",
    "connect": "edgevit.device.connect:connect",
    "get_target": "edgevit.targets:get_target",
    "load": "edgevit.model:load",
    "load_artifact": "edgevit.artifact:load_artifact",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgevit' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    home = import_module(module)
    return getattr(home, attribute) if attribute else home
