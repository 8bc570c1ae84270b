"""What a device can compute at most, measured over the session that a model was measured over."""

from __future__ import annotations

import numpy as np

from edgevit.artifact import Artifact, file_info
from edgevit.bench.contenders.fma import chains_for, fma_module
from edgevit.device.session import Session
from edgevit.manifest import LibraryInfo, NumericCheck, Resolution, TensorInfo

_STEPS = 2_000_000
"""FMAs of each chain and call: milliseconds, long enough for a launch not to count."""
_CALLS = 10


def measure_peak(artifact: Artifact, session: Session, threads: int) -> float:
    """Most floating-point operations a second: of fused multiply-adds on registers alone, two operations each.

    Unloads what the session has loaded.

    Args:
        artifact: its target's vectors and registers are used.
        session: where to measure.
        threads: cores to load at the same time.

    Raises:
        ToolchainError: the kernel could not be compiled or linked.
        DeviceError: the device failed.
    """
    kernel, flops = _build(artifact, threads)
    with session.load(kernel) as loaded:
        loaded.set_threads(threads)
        (operands,) = loaded.inputs
        loaded.set_inputs({operands.name: np.full(operands.shape, 0.5, np.float32)})
        # The fastest: whatever disturbs a call makes it slower.
        return flops / min(loaded.time(_CALLS))


def _build(like: Artifact, threads: int) -> tuple[Artifact, int]:
    """An artifact that runs the kernel, and the floating-point operations of one call."""
    from tvm import relax

    from edgevit.compiler.entry import build_module, placeholder
    from edgevit.link import Linker

    target = like.manifest.target
    function = fma_module(target, threads, _STEPS)["entry"]
    inputs, sums = 2 * target.vector.lanes(), threads * chains_for(target) * target.vector.lanes()
    builder = relax.BlockBuilder()
    variable = builder.add_func(placeholder(function), "entry")
    operands = relax.Var("operands", relax.TensorType((inputs,), "float32"))
    with builder.function("main", [operands]):
        result = builder.emit(relax.call_tir(variable, [operands], relax.TensorType((sums,), "float32")))
        builder.emit_func_output(result)
    linker = Linker(target)
    library = linker.link(build_module(builder.get(), target, bodies={"entry": function}))
    name = f"peak{linker.suffix}"
    resolution = Resolution(
        inputs=(TensorInfo(name="operands", shape=(inputs,), dtype="float32"),),
        outputs=(TensorInfo(name="sums", shape=(sums,), dtype="float32"),),
        check=NumericCheck(status="not run"),
    )
    manifest = like.manifest.model_copy(
        update={
            "resolutions": (resolution,),
            "library": LibraryInfo(file=name, format=like.manifest.library.format),
            "files": {name: file_info(library)},
        }
    )
    return Artifact(manifest, {name: library}), 2 * _STEPS * sums
