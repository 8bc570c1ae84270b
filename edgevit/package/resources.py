"""The folder ``Model``: what an app carries of an artifact, as files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.accuracy.inputs import seeded_inputs
from edgevit.accuracy.reference import OnnxRuntimeReference
from edgevit.accuracy.tolerance import tolerance_for
from edgevit.emulate.library import Shipped, read_shipped
from edgevit.errors import UserError
from edgevit.package.plan import ALIGNMENT, CheckPlan, Limits, Plan, Stretch, TensorPlan
from edgevit.package.trace import trace

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.model import Model
    from edgevit.model.metadata import Preprocessing

PLAN, WEIGHTS, INPUT, EXPECTED = "plan.json", "weights.bin", "input.bin", "expected.bin"
KERNELS, KERNEL_SUFFIX = "kernels", ".metal.txt"
"""Not ``.metal``: Xcode would compile those, and has no reason to."""
SAMPLE, SAMPLE_TENSOR = "sample.png", "sample.bin"

LANGUAGES = ("metal2.3", "metal2.4", "metal3.0")
"""Versions of Metal's language that ``EdgevitModel.swift`` knows the names of."""

_SEED = 0
_SAMPLE_SIZE = (229, 173)
_IMAGE_CHANNELS = 3


def model_files(artifact: Artifact, model: Model) -> dict[str, bytes]:
    """Content of the folder by path inside it, for the artifact's selected resolution.

    Args:
        artifact: for a Metal target.
        model: its source, which ONNX Runtime computes the expected outputs from.

    Raises:
        ArtifactError: the library is damaged, or its program is not what the manifest says.
        ModelError: ONNX Runtime refuses the model.
        UserError: the texts are written for a version of Metal's language that the app cannot ask for.
    """
    shipped = read_shipped(artifact)
    traced = trace(artifact, shipped)
    manifest = artifact.manifest
    gpu = manifest.target.gpu
    assert gpu is not None
    if gpu.language not in LANGUAGES:
        raise UserError(
            f"the kernels are written for {gpu.language}, which packages do not know.",
            where=f"target {manifest.target.name}",
            advice=f"Compile for a target whose [gpu] language is one of {', '.join(LANGUAGES)}.",
        )
    kernels = sorted({launch.kernel for launch in traced.launches})
    check, check_files = _check(artifact, model)
    image = _image_input(traced.inputs)
    preprocessing = _preprocessing(artifact, traced.inputs[image]) if image is not None else None
    plan = Plan(
        model=Path(manifest.model.name).stem,
        artifact=artifact.sha256,
        target=manifest.target.name,
        precision=manifest.precision,
        language=gpu.language,
        limits=Limits(max_threads=gpu.max_threads, local_bytes=gpu.local_bytes, simd=gpu.simd),
        uses_simd=any("simd" in shipped.kernels[name].text for name in kernels),
        weights_bytes=len(traced.weights),
        storages=traced.storages,
        inputs=traced.inputs,
        outputs=traced.outputs,
        launches=traced.launches,
        task=manifest.metadata.task,
        labels=manifest.metadata.labels,
        preprocessing=preprocessing,
        image_input=image,
        check=check,
    )
    files = {PLAN: plan_bytes(plan), WEIGHTS: traced.weights, **check_files, **_texts(shipped, kernels)}
    if preprocessing is not None and image is not None:
        files |= _sample(preprocessing, traced.inputs[image])
    return files


def plan_bytes(plan: Plan) -> bytes:
    """The plan as the app reads it."""
    return (plan.model_dump_json(indent=1, exclude_none=True) + "\n").encode()


def stretches(tensors: Sequence[np.ndarray[Any, Any]]) -> tuple[tuple[Stretch, ...], bytes]:
    """Tensors one after the other, each at a multiple of ``ALIGNMENT``: where, and the bytes."""
    data, found = bytearray(), []
    for tensor in tensors:
        data.extend(bytes(-len(data) % ALIGNMENT))
        part = np.ascontiguousarray(tensor).tobytes()
        found.append(Stretch(offset=len(data), bytes=len(part)))
        data.extend(part)
    return tuple(found), bytes(data)


def _texts(shipped: Shipped, kernels: Sequence[str]) -> dict[str, bytes]:
    return {f"{KERNELS}/{name}{KERNEL_SUFFIX}": shipped.kernels[name].text.encode() for name in kernels}


def _check(artifact: Artifact, model: Model) -> tuple[CheckPlan, dict[str, bytes]]:
    """What the device compares itself with."""
    reference = OnnxRuntimeReference(model)
    inputs = seeded_inputs(artifact.resolution.inputs, _SEED)
    expected: Mapping[str, Any] = reference.run(inputs)
    at_inputs, input_bytes = stretches([inputs[info.name] for info in artifact.resolution.inputs])
    at_outputs, output_bytes = stretches([expected[info.name] for info in artifact.resolution.outputs])
    plan = CheckPlan(
        reference=reference.name,
        seed=_SEED,
        tolerance=tolerance_for(artifact.manifest.precision).normalised_error,
        inputs=at_inputs,
        outputs=at_outputs,
    )
    return plan, {INPUT: input_bytes, EXPECTED: output_bytes}


def _image_input(inputs: Sequence[TensorPlan]) -> int | None:
    """Index of the only input that takes one picture of three channels."""
    found = [
        index
        for index, tensor in enumerate(inputs)
        if len(tensor.shape) == 4 and tensor.shape[:2] == (1, _IMAGE_CHANNELS) and tensor.dtype == "float32"
    ]
    return found[0] if len(found) == 1 and len(inputs) == 1 else None


def _preprocessing(artifact: Artifact, image: TensorPlan) -> Preprocessing | None:
    """How a picture becomes the input; None where the model does not say, or not for this size."""
    stated = artifact.manifest.metadata.preprocessing
    if stated is None:
        return None
    try:
        return stated.for_size(image.shape[2], image.shape[3])
    except UserError:
        return None


def _sample(preprocessing: Preprocessing, image: TensorPlan) -> dict[str, bytes]:
    """A picture and the tensor that edgevit makes of it: the app compares its own preprocessing with that."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from edgevit.accuracy.images import prepare

    width, height = _SAMPLE_SIZE
    # Room for a crop without a resize.
    width, height = max(width, image.shape[3]), max(height, image.shape[2])
    y, x = np.mgrid[:height, :width]
    rings = np.sin(np.hypot(x - width / 3, y - height / 2) / 5) * 100 + 128
    pixels = np.stack([rings, x * 255 / width, (x // 16 + y // 16) % 2 * 200 + 20], axis=-1)
    picture = Image.fromarray(np.rint(pixels).astype(np.uint8))
    try:
        tensor = prepare(picture, preprocessing, image.shape[2], image.shape[3])
    except UserError:
        # The preprocessing takes pictures of one size only.
        return {}
    colours = PngInfo()
    colours.add(b"sRGB", b"\0")
    stream = io.BytesIO()
    picture.save(stream, "PNG", pnginfo=colours)
    return {SAMPLE: stream.getvalue(), SAMPLE_TENSOR: tensor.tobytes()}
