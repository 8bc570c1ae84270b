"""What an artifact says of itself: the schema of ``manifest.json``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
)

from edgevit.model.metadata import Metadata
from edgevit.target_schema import Target
from edgevit.tuning.record import Evidence

FORMAT_VERSION = 4

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
"""A plain name: nothing in it can leave the artifact's folder."""


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorInfo(_Schema):
    """One input or output.

    Attributes:
        name: as in the ONNX file.
        shape: static dimensions.
        dtype: numpy's name.
        layout: ``NCHW`` for image-like inputs, else None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str | None = None


class ModelInfo(_Schema):
    """The source model.

    Attributes:
        name: file name without its folder.
        sha256: of the source file's bytes.
        task: classification, detection, segmentation or unknown.
        parameters: number of weights.
        macs: multiply-accumulates of one inference at the first resolution.
    """

    name: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    opset: PositiveInt
    task: str
    parameters: NonNegativeInt
    macs: NonNegativeInt
    notes: tuple[str, ...] = ()


class FileInfo(_Schema):
    """Size and SHA-256 of one file of the artifact."""

    bytes: NonNegativeInt
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class LibraryInfo(_Schema):
    """The compiled code.

    Attributes:
        file: its name in the artifact.
        format: object format; an ``archive`` is a static library of Mach-O objects, which no session loads.
    """

    file: FileName
    format: Literal["elf", "macho", "archive"]


class KernelInfo(_Schema):
    """One kernel call of the compiled program.

    Attributes:
        kernel: function that computes it; several calls may share one.
        family: that wrote the function.
        workload: key under which tuning records know it.
        flops: two for every multiply-accumulate.
        bytes: inputs, weights and outputs, each moved once.
        layers: the model's nodes that it computes.
        evidence: what the tuning record behind its shape is: ``measured`` on the target, ``borrowed`` from a relative
            or ``estimated``; None for the family's default.
    """

    kernel: str
    family: str
    workload: str
    flops: NonNegativeInt
    bytes: NonNegativeInt
    layers: tuple[str, ...]
    evidence: Evidence | None = None

    @property
    def tuned(self) -> bool:
        """Whether a tuning record shaped it."""
        return self.evidence is not None


class LaunchInfo(_Schema):
    """One launch of a kernel on a GPU.

    Attributes:
        function: what the virtual machine calls.
        kernel: its name in the kernel text.
        grid: groups along x, y and z.
        block: threads of a group along x, y and z.
        arguments: for every buffer of the kernel, the position of the function's argument that it is; -1 for the first
            of the function's own workspaces, -2 for the second, and so on.
        workspaces: bytes of the function's own device memory.
        bytes: of the kernel's buffers, each counted once.
    """

    function: str
    kernel: str
    grid: tuple[PositiveInt, PositiveInt, PositiveInt]
    block: tuple[PositiveInt, PositiveInt, PositiveInt]
    arguments: tuple[int, ...]
    workspaces: tuple[NonNegativeInt, ...] = ()
    bytes: NonNegativeInt = 0


class TuningInfo(_Schema):
    """Which records shaped the code.

    Attributes:
        records_sha256: of the records that did, None when none did.
        measured, borrowed, estimated: number of distinct kernels shaped by such records, functions that TVM imported
            among them.
        default: number of distinct kernels in their family's default shape.
    """

    records_sha256: str | None
    measured: NonNegativeInt
    borrowed: NonNegativeInt
    estimated: NonNegativeInt
    default: NonNegativeInt


class NumericCheck(_Schema):
    """The comparison with the reference that the code passed before it was written.

    Attributes:
        status: ``passed``, or ``not run``: then ``reason`` says why.
        where: ``this machine`` or the emulator's name.
        hardware: False when only an emulator has executed the code.
        reference: tool and version that computed the expected values.
        seeds: inputs drawn; each was run ``calls`` times.
        max_abs_error: largest difference, over all seeds and calls, of the output that came closest to failing.
        max_abs_reference: largest magnitude of that output's expected values.
        tolerance: largest accepted ``max_abs_error / max_abs_reference``.
        proof: of a GPU's kernels, what executing their text in emulation showed; left out of the file where empty.
        unconfirmed: what it did not show; left out where empty.
    """

    status: Literal["passed", "not run"]
    where: str | None = None
    hardware: bool = False
    reference: str | None = None
    seeds: NonNegativeInt = 0
    calls: NonNegativeInt = 0
    max_abs_error: NonNegativeFloat | None = None
    max_abs_reference: NonNegativeFloat | None = None
    tolerance: NonNegativeFloat | None = None
    reason: str | None = None
    proof: tuple[str, ...] = ()
    unconfirmed: str | None = None

    @model_serializer(mode="wrap")
    def _without_empty(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return {name: value for name, value in content.items() if value or name not in ("proof", "unconfirmed")}


class Resolution(_Schema):
    """One set of input shapes, and the program that runs at it.

    Attributes:
        inputs: in the model's order.
        outputs: in the model's order.
        entry: function of the virtual machine that computes the model.
        profile: function that also returns readings of the clock, one before each segment's first kernel call and
            one after every call; None where there is none.
        program: kernel calls in order; operators that TVM's own loops compute are not among them.
        macs: multiply-accumulates by kernel family; ``tvm`` for what no family covers.
        rest: nodes that no family covers, by operator.
        workspace_bytes: memory for values between kernels.
        launches: on a GPU, what is launched, in order.
        check: what the code passed.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    entry: str = "main"
    profile: str | None = None
    program: tuple[KernelInfo, ...] = ()
    macs: dict[str, NonNegativeInt] = {}
    rest: dict[str, NonNegativeInt] = {}
    workspace_bytes: NonNegativeInt = 0
    launches: tuple[LaunchInfo, ...] = ()
    check: NumericCheck

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the inputs, by name."""
        return {info.name: info.shape for info in self.inputs}

    @property
    def text(self) -> str:
        """The inputs' shapes as the command line writes them."""
        dims = ["x".join(map(str, info.shape)) or "scalar" for info in self.inputs]
        return dims[0] if len(dims) == 1 else ",".join(f"{i.name}={d}" for i, d in zip(self.inputs, dims, strict=True))


class Manifest(_Schema):
    """Everything an artifact says of itself.

    Attributes:
        format_version: layout of the artifact; a reader refuses versions it does not know.
        metadata: what the model says of itself: labels, preprocessing, how boxes are decoded.
        precision: ``fp32``, ``fp16`` or ``int8``: of the weights.
        constant_bytes: on a GPU, weights that are copied to the device when a model is loaded; on a CPU they are part
            of the library, and this is 0.
        kernels: number of distinct kernels by the family that wrote them.
        resolutions: input shapes that it serves, each with its program; at least one.
        tools: version of everything that shaped the bytes.
        files: every file of the artifact except the manifest.
    """

    format_version: int
    model: ModelInfo
    precision: Literal["fp32", "fp16", "int8"]
    target: Target
    target_fingerprint: str
    metadata: Metadata = Metadata()
    library: LibraryInfo
    kernels: dict[str, NonNegativeInt]
    resolutions: Annotated[tuple[Resolution, ...], Field(min_length=1)]
    constant_bytes: NonNegativeInt = 0
    tuning: TuningInfo
    tools: dict[str, str]
    files: dict[FileName, FileInfo]
