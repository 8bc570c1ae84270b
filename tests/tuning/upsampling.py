"""A model with an operator that no kernel family covers, and its quick tuning; as a program, tunes until killed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgevit.device.session import Session
from edgevit.device.spawn import connect_process
from edgevit.model import Model, from_proto
from edgevit.target_schema import Target
from edgevit.targets import get_target
from edgevit.tuning.measure import Protocol
from edgevit.tuning.metaschedule.search import TvmSummary, TvmTrial, TvmTuner
from edgevit.tuning.metaschedule.tasks import TvmTask, extract_tvm_tasks
from edgevit.tuning.search import read_known
from edgevit.tuning.writing import LogWriter

CALM = Protocol(rounds=3, most_rounds=200, seconds=1e-5, slow_share=1e6)
"""Every round is calm: tests run beside others."""


def upsampling(times: int = 1, *, before: str | None = None) -> Model:
    """Transposed convolutions of 4×6×6 images, each of which keeps the size, behind an operation of edgevit's own."""
    draw = np.random.default_rng(0)
    weights = {
        "kernel": draw.standard_normal((4, 4, 3, 3)).astype(np.float32),
        "bias": draw.standard_normal(4).astype(np.float32),
    }
    nodes, value = [], "image"
    if before:
        nodes.append(helper.make_node(before, [value], ["before"], name="before"))
        value = "before"
    for step in range(times):
        name = f"up{step}"
        nodes.append(helper.make_node("ConvTranspose", [value, "kernel", "bias"], [name], name=name, pads=[1, 1, 1, 1]))
        value = name
    shape = [1, 4, 6, 6]
    graph = helper.make_graph(
        nodes,
        "upsampling",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return from_proto(proto)


def tasks_of(model: Model, target: str | Target = "host") -> list[TvmTask]:
    """What there is to tune of a model."""
    return extract_tvm_tasks({"model": model}, get_target(target) if isinstance(target, str) else target)


def tune(
    tasks: Sequence[TvmTask],
    path: Path,
    trials: int,
    *,
    connect: Callable[[], Session] = connect_process,
    report: Callable[[TvmTrial], None] = lambda _: None,
    **options: Any,
) -> TvmSummary:
    """Tune with one thread into a log, in batches of four."""
    with LogWriter(path) as log:
        known = read_known(tasks[0].target, path)
        settings = {"threads": 1, "trials": trials, "batch": 4, "protocol": CALM, "report": report, **options}
        return TvmTuner(tasks, connect, log, known, **settings).run()


def main(path: Path) -> None:
    """Tune for long, and say when trials are written."""
    tune(tasks_of(upsampling()), path, 10_000, report=lambda trial: print(trial.number, flush=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
