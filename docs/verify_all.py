"""Compile models for phones and Macs, execute what was compiled, and print what that proved: ``just verify-all``.

Prints, as Markdown, one line for each model, target and precision, and one for the bytes that an inference moves beside
those of TVM's own pipeline. Everything is executed on this machine: CPU code under QEMU, kernel texts of GPUs by
edgevit's own executor and, for OpenCL in fp32, by PoCL. Ends with 1 if anything is wrong.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgevit.accuracy.compare import AccuracyResult
    from edgevit.artifact import Artifact
    from edgevit.compiler.prepare import Precision
    from edgevit.emulate.prove import Proof
    from edgevit.model import Model

MODELS = ("mobilevit-xxs", "mobilevit-xs", "mobilevit-s")
TARGETS = ("android-arm64", "android-opencl-adreno", "android-opencl-mali", "metal-macos", "metal-ios")
PRECISIONS = ("fp32", "fp16")
HEADER = (
    "| model | target | precision | compile | artifact | kernels | launches | memory | error | top-1 | by |\n"
    "|---|---|---|---:|---:|---:|---:|---:|---:|---|---|"
)
TRAFFIC = (
    "| model | target | precision | launches, stock | launches | MB, stock | MB | ratio | MB at least |\n"
    "|---|---|---|---:|---:|---:|---:|---:|---:|"
)
_MB = 1e6


@dataclass(frozen=True)
class Case:
    """One artifact, executed.

    Attributes:
        artifact: of ``model`` for a target in a precision.
        seconds: that compiling took, linking included.
        result: of the comparison with ONNX Runtime.
        proof: what executing kernels of a GPU showed.
    """

    name: str
    model: Model
    artifact: Artifact
    seconds: float
    result: AccuracyResult
    proof: Proof | None


def main(
    models: Annotated[list[str] | None, typer.Argument(help="Models of the zoo.")] = None,
    targets: Annotated[str, typer.Option(help="Targets, joined by commas.")] = ",".join(TARGETS),
    precisions: Annotated[str, typer.Option(help="Joined by commas.")] = ",".join(PRECISIONS),
    inputs: Annotated[int, typer.Option(min=1, help="Random inputs for each.")] = 10,
) -> None:
    """Two tables."""
    print(HEADER, flush=True)
    cases = []
    for case in _cases(models or MODELS, targets.split(","), precisions.split(","), inputs):
        print(_row(case), flush=True)
        cases.append(case)
    print(f"\n{TRAFFIC}", flush=True)
    for case in cases:
        if case.artifact.manifest.target.gpu is not None:
            print(_traffic_row(case), flush=True)
    wrong = [f"{c.name} {c.artifact.manifest.target.name}: {f}" for c in cases for f in c.result.failures]
    wrong += [
        f"{c.name} {c.artifact.manifest.target.name}: the top class differs"
        for c in cases
        if any(tensor.top1_agrees is False for tensor in c.result.tensors)
    ]
    for line in wrong:
        print(line, file=sys.stderr)
    raise typer.Exit(bool(wrong))


def _cases(names: Sequence[str], targets: Sequence[str], precisions: Sequence[str], inputs: int) -> Iterator[Case]:
    import edgevit
    from edgevit.compiler.compile import compile_model
    from edgevit.device.emulate import connect_emulated
    from edgevit.emulate.prove import check_with_proof
    from edgevit.model import from_proto
    from edgevit.zoo import build

    for name in names:
        model = from_proto(build(name))
        for target in map(edgevit.get_target, targets):
            for precision in precisions:
                begun = time.monotonic()
                artifact = compile_model(model, target, precision=_precision(precision), verify=False)
                seconds = time.monotonic() - begun
                with connect_emulated(target) as session:
                    result, proof = check_with_proof(
                        artifact, session, model, seeds=range(inputs), calls=1, second=True
                    )
                yield Case(name, model, artifact, seconds, result, proof)


def _precision(text: str) -> Precision:
    if text == "fp32":
        return "fp32"
    if text == "fp16":
        return "fp16"
    raise typer.BadParameter(f"there is no precision {text}")


def _row(case: Case) -> str:
    manifest, proof = case.artifact.manifest, case.proof
    resolution = manifest.resolutions[0]
    size = sum(info.bytes for info in manifest.files.values())
    error = max(tensor.normalised_error or 0.0 for tensor in case.result.tensors)
    agrees = all(tensor.top1_agrees for tensor in case.result.tensors)
    if proof is None:
        kernels, launches = len({call.kernel for call in resolution.program}), len(resolution.program)
        memory, tools = len(case.artifact.library) + resolution.workspace_bytes, manifest.target.emulator or ""
    else:
        kernels, launches, memory = proof.kernels, proof.launches, proof.peak_bytes
        tools = ", ".join(name for name, used in _tools(proof) if used)
    cells = (
        case.name,
        manifest.target.name,
        manifest.precision,
        f"{case.seconds:.1f} s",
        f"{size / _MB:.2f} MB",
        str(kernels),
        str(launches),
        f"{memory / _MB:.2f} MB",
        f"{error:.1e}",
        f"same on {len(case.result.seeds)}" if agrees else "differs",
        tools,
    )
    return f"| {' | '.join(cells)} |"


def _tools(proof: Proof) -> tuple[tuple[str, object], ...]:
    """What executed or read the kernels, by short names, and whether it did."""
    return (
        ("checked execution", proof.checked),
        ("OpenCL front end", proof.front_end),
        (proof.second or "", proof.second),
    )


def _traffic_row(case: Case) -> str:
    from edgevit.compiler.gpu.stock import build_stock

    manifest = case.artifact.manifest
    resolution = manifest.resolutions[0]
    stock = build_stock(case.model, manifest.target, _precision(manifest.precision)).launches_of("main")
    theirs, ours = sum(launch.bytes for _, launch in stock), sum(launch.bytes for launch in resolution.launches)
    cells = (
        case.name,
        manifest.target.name,
        manifest.precision,
        str(len(stock)),
        str(len(resolution.launches)),
        f"{theirs / _MB:.1f}",
        f"{ours / _MB:.1f}",
        f"{ours / theirs:.2f}",
        f"{_least_bytes(case.artifact) / _MB:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def _least_bytes(artifact: Artifact) -> int:
    """Weights, input and output, each moved once: what no fusion and no cache can spare."""
    from math import prod

    import numpy as np

    resolution = artifact.manifest.resolutions[0]
    outside = (*resolution.inputs, *resolution.outputs)
    return artifact.manifest.constant_bytes + sum(prod(t.shape) * np.dtype(t.dtype).itemsize for t in outside)


if __name__ == "__main__":
    typer.run(main)
