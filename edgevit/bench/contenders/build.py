"""Compile in a process of its own: ``python -m edgevit.bench.contenders.build``, then ``model ONNX FOLDER`` or
``fma FOLDER THREADS``.

A compiler's memory and threads should not lie about while contenders are measured. One JSON line on stdout says
what was built.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Build what the arguments say."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # compilers print what they like
        kind, first, second = sys.argv[1:4]
        answer = _model(Path(first), Path(second)) if kind == "model" else _fma(Path(first), int(second))
        answers.write(json.dumps(answer) + "\n")


def _model(source: Path, folder: Path) -> dict[str, Any]:
    from edgevit.compiler.compile import compile_model
    from edgevit.model import load

    # Unchecked here: the contest itself compares the outputs with a stricter reference.
    artifact = compile_model(load(source), "host", verify=False).save(folder)
    return {"sha256": artifact.sha256}


def _fma(folder: Path, threads: int) -> dict[str, Any]:
    from edgevit.bench.contenders.fma import build_fma_kernel

    return {**dataclasses.asdict(build := build_fma_kernel(folder, threads)), "library": str(build.library)}


if __name__ == "__main__":
    main()
