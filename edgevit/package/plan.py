"""What ``plan.json`` says: buffers, launches, and what the app has to know of the model.

``Plan.swift`` in ``templates/`` declares the same in Swift.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveInt

from edgevit.model.metadata import Preprocessing

FORMAT: Literal[1] = 1
ALIGNMENT = 256
"""Bytes: offsets of constants and of the check's tensors are multiples of it, which every Metal device accepts."""

Three = tuple[PositiveInt, PositiveInt, PositiveInt]


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Place(_Schema):
    """Where a tensor lies.

    Attributes:
        buffer: an input's, the one of all weights, or one for values between kernels.
        index: which of the inputs or storages; 0 for the weights.
        offset: of the first byte.
        bytes: how many.
    """

    buffer: Literal["input", "weights", "storage"]
    index: NonNegativeInt
    offset: NonNegativeInt
    bytes: NonNegativeInt


class TensorPlan(_Schema):
    """An input or output of the model: as in the manifest, and where it lies."""

    name: str
    shape: tuple[NonNegativeInt, ...]
    dtype: str
    place: Place


class LaunchPlan(_Schema):
    """One dispatch.

    Attributes:
        kernel: its name, and the name of its text in ``kernels/``.
        grid: threadgroups.
        block: threads of a threadgroup.
        buffers: for each of the kernel's buffer indices in order.
    """

    kernel: str
    grid: Three
    block: Three
    buffers: tuple[Place, ...]


class Limits(_Schema):
    """Of the target's GPU: threads and bytes of shared memory of a threadgroup, threads that execute together."""

    max_threads: PositiveInt
    local_bytes: PositiveInt
    simd: PositiveInt


class Stretch(_Schema):
    """Bytes of a file."""

    offset: NonNegativeInt
    bytes: NonNegativeInt


class CheckPlan(_Schema):
    """The comparison that the device makes itself.

    Attributes:
        reference: tool and version that computed ``expected.bin``.
        seed: of the inputs in ``input.bin``.
        tolerance: largest accepted quotient of error and largest expected magnitude, for every output.
        inputs: stretches of ``input.bin``, in the order of the model's inputs.
        outputs: stretches of ``expected.bin``, in the order of the model's outputs.
    """

    reference: str
    seed: NonNegativeInt
    tolerance: NonNegativeFloat
    inputs: tuple[Stretch, ...]
    outputs: tuple[Stretch, ...]


class Plan(_Schema):
    """Everything beside weights and kernel texts.

    Attributes:
        format: of this file.
        model: name of the ONNX file without its ending.
        artifact: SHA-256 that identifies the artifact.
        target: its target's name.
        precision: of weights and values between kernels.
        language: version of Metal's language that the texts are written for.
        limits: that the kernels were compiled for.
        uses_simd: whether a kernel counts on ``limits.simd`` threads executing together.
        weights_bytes: size of ``weights.bin``.
        storages: bytes of each buffer for values between kernels.
        inputs, outputs: in the model's order.
        launches: in order; each may read what those before it wrote.
        task, labels, preprocessing: what the model says of itself; preprocessing for this very input size.
        image_input: index of the input that takes a picture; None where there is no such input.
        check: the comparison that the device makes itself.
        emulated: whether edgevit has executed this plan before it was written.
    """

    format: Literal[1] = FORMAT
    model: str
    artifact: str
    target: str
    precision: str
    language: str
    limits: Limits
    uses_simd: bool
    weights_bytes: NonNegativeInt
    storages: tuple[NonNegativeInt, ...]
    inputs: tuple[TensorPlan, ...]
    outputs: tuple[TensorPlan, ...]
    launches: tuple[LaunchPlan, ...]
    task: str | None = None
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    image_input: NonNegativeInt | None = None
    check: CheckPlan
    emulated: bool = False
