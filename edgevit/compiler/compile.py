"""The whole way from a model to an artifact that has been executed and found right."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgevit.artifact import Artifact, file_info
from edgevit.errors import CheckFailed, UserError
from edgevit.link import Linker
from edgevit.manifest import (
    FORMAT_VERSION,
    KernelInfo,
    LaunchInfo,
    LibraryInfo,
    Manifest,
    ModelInfo,
    NumericCheck,
    Resolution,
    TensorInfo,
    TuningInfo,
)
from edgevit.target_schema import Target
from edgevit.targets import executes_here, get_target, runs_here, validate_for_compiler
from edgevit.tuning.records import TuningLog, load_tuning_log
from edgevit.tuning.workloads import TVM_FAMILY

if TYPE_CHECKING:
    from edgevit.accuracy.compare import AccuracyResult
    from edgevit.compiler.lower import Lowered, Program
    from edgevit.compiler.prepare import Precision
    from edgevit.compiler.program import KernelCall
    from edgevit.device.session import Session
    from edgevit.emulate.prove import Proof
    from edgevit.model import Model, TensorSpec

Stage = Callable[[str], None]
"""Told the name of each stage as it begins."""

_SHAPERS = ("apache-tvm", "apache-tvm-ffi", "onnx", "onnxsim")


def compile_model(
    model: Model | Sequence[Model],
    target: Target | str | Path = "host",
    *,
    precision: Precision | None = None,
    linker: str | None = None,
    tuning_log: Path | TuningLog | None = None,
    verify: bool = True,
    stage: Stage = lambda _: None,
    build_progress: Callable[[int, int], None] | None = None,
) -> Artifact:
    """Compile a model for a target and check the result against ONNX Runtime.

    The same model, target, records and tool versions give the same bytes, on any day, in any folder.

    Args:
        model: from :func:`edgevit.load`; or the same file loaded at several input shapes, which one artifact then
            serves with one copy of the weights.
        target: a target, its name or the path of its TOML file.
        precision: how weights and values between kernels are stored: ``fp32`` or ``fp16``. None takes the target's
            own choice on a GPU, and the model's on a CPU.
        linker: ``zig``, ``system`` or ``ndk``; None for the target's own choice.
        tuning_log: folder of records that come before the user's own and those that ship with edgevit; None for the
            latter two alone. Or the records themselves: with an empty ``TuningLog()`` none are used.
        verify: execute the code, here or under an emulator, and compare; where neither can run it, the
            manifest says so.
        stage: told what is going on.
        build_progress: told of the device server's build, if the check needs one.

    Raises:
        ModelError: TVM cannot import the model.
        TargetError: there is no such target.
        UserError: several models that are not one file, twice the same shapes, or a precision that the target does
            not compute in.
        ToolchainError: code generation or linking failed.
        CheckFailed: the code does not compute what the model says; no artifact is returned.
    """
    if not isinstance(target, Target):
        target = get_target(target)
    validate_for_compiler(target)
    models = list(model) if isinstance(model, Sequence) else [model]
    _refuse_strangers(models)
    records = tuning_log if isinstance(tuning_log, TuningLog) else load_tuning_log(target, tuning_log)
    _refuse_precision(precision, target)
    artifact = build(models, target, Linker(target, linker), records, stage, precision=precision)
    if not verify:
        reason = NumericCheck(status="not run", reason="the user asked for no check")
        return with_checks(artifact, [reason] * len(models))
    stage("check")
    return with_checks(artifact, _verify(artifact, models, build_progress))


def build(
    models: Sequence[Model],
    target: Target,
    linker: Linker,
    records: TuningLog,
    stage: Stage = lambda _: None,
    *,
    precision: Precision | None = None,
) -> Artifact:
    """Compile without executing anything; the manifest says that no check was run."""
    from edgevit.compiler.lower import lower
    from edgevit.linking.metal import precompiled
    from edgevit.model import describe

    stage("generate code")
    model = models[0]
    lowered = lower(models, target, records, precision)
    stage("link")
    files = linker.link_all(lowered.executable, lowered.weights)
    files |= precompiled(files[linker.library], target)
    report = describe(model)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model=ModelInfo(
            name=model.source.name if model.source else "model.onnx",
            sha256=model.sha256,
            opset=model.opset,
            task=report.task,
            parameters=report.parameters,
            macs=report.macs,
            notes=model.notes,
        ),
        metadata=model.about,
        precision=_precision(model, target, precision),
        target=target,
        target_fingerprint=target.fingerprint(),
        library=LibraryInfo(file=linker.library, format=linker.format),
        kernels=lowered.kernels,
        resolutions=tuple(map(_resolution, models, lowered.programs)),
        constant_bytes=lowered.constant_bytes,
        tuning=_tuning_info(lowered),
        tools={
            "edgevit": version("edgevit"),
            **{package: version(package) for package in _SHAPERS},
            "linker": linker.description,
        },
        files={name: file_info(content) for name, content in files.items()},
    )
    return Artifact(manifest, files)


def _refuse_precision(precision: Precision | None, target: Target) -> None:
    if precision == "fp16" and target.gpu is None and not target.has("fullfp16"):
        raise UserError(
            f"{target.name} does not compute in fp16.",
            where="--precision",
            advice="Leave it out: the model is then computed in fp32, which this target does faster.",
        )


def _refuse_strangers(models: Sequence[Model]) -> None:
    if len({model.sha256 for model in models}) > 1:
        raise UserError(
            "one artifact holds one model.",
            advice="Compile each file on its own; several shapes of one file may share.",
        )
    if len({tuple(spec.shape for spec in model.inputs) for model in models}) < len(models):
        raise UserError("the same input shapes are given twice.", advice="Give each once.")


def _resolution(model: Model, program: Program) -> Resolution:
    return Resolution(
        inputs=tuple(_tensor(spec) for spec in model.inputs),
        outputs=tuple(_tensor(spec) for spec in model.outputs),
        entry=program.entry,
        profile=program.profile,
        program=tuple(_kernel_info(call) for call in program.calls),
        macs=program.roads.macs,
        rest=program.roads.rest,
        workspace_bytes=program.workspace,
        launches=tuple(LaunchInfo(function=name, **asdict(launch)) for name, launch in program.launches),
        check=NumericCheck(status="not run"),
    )


def _kernel_info(call: KernelCall) -> KernelInfo:
    return KernelInfo(
        kernel=call.kernel,
        family=call.family,
        workload=call.workload,
        flops=call.flops,
        bytes=call.bytes,
        layers=call.layers,
        evidence=call.pick.evidence if call.pick else None,
    )


def _tuning_info(lowered: Lowered) -> TuningInfo:
    picks = lowered.picks
    records = [*(pick.record for pick in picks if pick), *lowered.rest_records]
    lines = sorted({record.line() for record in records})
    counts = Counter(pick.evidence if pick else "default" for pick in picks)
    return TuningInfo(
        records_sha256=hashlib.sha256(b"".join(lines)).hexdigest() if lines else None,
        measured=counts["measured"] + lowered.rest_kernels.get(TVM_FAMILY, 0),
        borrowed=counts["borrowed"],
        estimated=counts["estimated"],
        default=counts["default"],
    )


def _verify(
    artifact: Artifact, models: Sequence[Model], build_progress: Callable[[int, int], None] | None
) -> list[NumericCheck]:
    from edgevit.emulate.prove import check_with_proof

    session = _session_for(artifact.manifest.target, build_progress)
    if isinstance(session, str):
        return [NumericCheck(status="not run", reason=session)] * len(models)
    checks = []
    with session:
        for part, model in zip(artifact.resolutions(), models, strict=True):
            result, proof = check_with_proof(part, session, model, seeds=(0, 1), calls=2)
            if not result.passed:
                raise CheckFailed(
                    f"the compiled code is wrong: {result.failures[0]}.",
                    where=f"output {result.worst} at {part.resolution.text}",
                    advice=_wrong_advice(artifact),
                )
            checks.append(numeric_check(result, session, proof))
    return checks


def _wrong_advice(artifact: Artifact) -> str:
    find = "Run 'edgevit check --bisect' on an artifact compiled with --no-verify, and report it."
    if artifact.manifest.precision != "fp16":
        return find
    return f"Some models do not bear fp16: compile this one with --precision fp32. {find}"


def _session_for(target: Target, build_progress: Callable[[int, int], None] | None) -> Session | str:
    """A session that can execute the target's code on this machine, or why there is none."""
    from edgevit.device.spawn import connect_process

    if target.gpu is not None:
        from edgevit.emulate import available
        from edgevit.emulate.session import connect_gpu

        return available(target) or connect_gpu(target, progress=build_progress)
    if runs_here(target):
        return connect_process()
    from edgevit.device.emulate import connect_emulated, find_emulator

    if target.emulator is None:
        return f"nothing on this machine executes {target.architecture} {target.system} code"
    if find_emulator(target) is None and not executes_here(target):
        return f"{target.emulator} is not installed"
    return connect_emulated(target, progress=build_progress)


def numeric_check(result: AccuracyResult, session: Session, proof: Proof | None = None) -> NumericCheck:
    """What the manifest says of a check that passed.

    Args:
        result: of the comparison.
        session: where the code ran.
        proof: what emulating a GPU's kernels showed.
    """
    from edgevit.emulate.prove import UNCONFIRMED

    compared = [t for t in result.tensors if t.max_abs is not None and t.max_reference is not None]
    worst = next((t for t in compared if t.name == result.worst), compared[0] if compared else None)
    return NumericCheck(
        status="passed",
        where=artifact_place(session),
        hardware=not session.emulated,
        reference=result.reference,
        seeds=len(result.seeds),
        calls=result.repeats,
        # Three digits say all there is to say, and do not depend on how the mean was folded.
        max_abs_error=_rounded(worst.max_abs) if worst else None,
        max_abs_reference=_rounded(worst.max_reference) if worst else None,
        tolerance=result.tolerance.normalised_error,
        proof=proof.sentences() if proof else (),
        unconfirmed=UNCONFIRMED if proof else None,
    )


def artifact_place(session: Session) -> Literal["this machine", "qemu", "emulated kernels"]:
    """Where a session runs code, in words that do not name the machine: manifests are reproducible."""
    from edgevit.emulate.session import GpuSession

    if isinstance(session, GpuSession):
        return "emulated kernels"
    return "qemu" if session.emulated and "qemu" in str(session.describe().address) else "this machine"


def with_checks(artifact: Artifact, checks: Sequence[NumericCheck]) -> Artifact:
    """An artifact whose manifest says for each resolution what it passed."""
    pairs = zip(artifact.manifest.resolutions, checks, strict=True)
    resolutions = tuple(resolution.model_copy(update={"check": check}) for resolution, check in pairs)
    return replace(artifact, manifest=artifact.manifest.model_copy(update={"resolutions": resolutions}))


def _tensor(spec: TensorSpec) -> TensorInfo:
    image_like = len(spec.shape) == 4 and spec.shape[1] in (1, 3, 4)
    return TensorInfo(name=spec.name, shape=spec.shape, dtype=spec.dtype, layout="NCHW" if image_like else None)


def _precision(model: Model, target: Target, asked: Precision | None) -> Literal["fp32", "fp16", "int8"]:
    """Precision of the compiled weights."""
    own = _own_precision(model)
    if own == "int8":
        return own
    return asked or (target.precision if target.gpu else own)


def _own_precision(model: Model) -> Literal["fp32", "fp16", "int8"]:
    """Precision of the model's weights: quantized operators, else the type of most initializer bytes."""
    from onnx import TensorProto

    graph = model.proto.graph
    if any(node.op_type == "DequantizeLinear" for node in graph.node):
        return "int8"
    elements = dict.fromkeys((TensorProto.FLOAT, TensorProto.FLOAT16), 0)
    for tensor in graph.initializer:
        if tensor.data_type in elements:
            count = 1
            for size in tensor.dims:
                count *= size
            elements[tensor.data_type] += count
    return "fp16" if elements[TensorProto.FLOAT16] > elements[TensorProto.FLOAT] else "fp32"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")
