"""Weights of Hugging Face transformers, imported: PyTorch's outputs, from ONNX Runtime and from compiled code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgevit.compiler.compile import compile_model
from edgevit.device.connect import connect
from edgevit.errors import ModelError
from edgevit.model import from_proto
from edgevit.targets import get_target
from edgevit.zoo.mobilenet_v2 import build_mobilenet_v2
from edgevit.zoo.mobilevit import build_mobilevit
from edgevit.zoo.weights import builder_options, import_weights, read_tensors
from tests.reference.public_models import FORMATS, PAIRS, TOLERANCE, Array, Pair, Sample, imported, sample, save

Samples = Callable[[str], Sample]


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Public models by name, each made once."""
    made: dict[str, Sample] = {}

    def get(name: str) -> Sample:
        if name not in made:
            made[name] = sample(PAIRS[name])
        return made[name]

    return get


def run(proto: onnx.ModelProto, image: Array) -> Array:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"pixel_values": image})[0])


@pytest.mark.parametrize("name", PAIRS)
def test_computes_the_same(name: str, samples: Samples, tmp_path: Path) -> None:
    public = samples(name)
    public.assert_close(run(imported(PAIRS[name], save(public.model, tmp_path, "safetensors")), public.image))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["mobilevit-xxs", "deit-tiny"])
def test_every_format_holds_the_same(name: str, form: str, samples: Samples, tmp_path: Path) -> None:
    public = samples(name)
    public.assert_close(run(imported(PAIRS[name], save(public.model, tmp_path, form)), public.image))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_compiled_code_computes_the_same(name: str, samples: Samples, tmp_path: Path) -> None:
    public = samples(name)
    proto = imported(PAIRS[name], save(public.model, tmp_path, "safetensors"))
    artifact = compile_model(from_proto(proto), "host", verify=False)
    with connect() as session, session.load(artifact) as loaded:
        public.assert_close(loaded.run({"pixel_values": public.image})["logits"])


@pytest.mark.slow
@pytest.mark.emulated
@pytest.mark.usefixtures("qemu")
@pytest.mark.parametrize("name", ["mobilevit-xxs", "mobilevit-xs", "mobilevit-s", "mobilevit-s-seg"])
def test_arm_code_computes_the_same(name: str, samples: Samples, tmp_path: Path) -> None:
    public = samples(name)
    proto = imported(PAIRS[name], save(public.model, tmp_path, "safetensors"))
    artifact = compile_model(from_proto(proto), "arm64-linux", verify=False)
    with connect(emulate=get_target("arm64-linux")) as session, session.load(artifact) as loaded:
        public.assert_close(loaded.run({"pixel_values": public.image})["logits"])


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        (
            "mobilevit-s",
            "4.transformer.layer.2.attention.attention.key",
            "4.transformer.layer.2.attention.attention.query",
        ),
        ("mobilevit-s", "4.transformer.layer.2.layernorm_before", "4.transformer.layer.2.layernorm_after"),
        ("mobilevitv2-1.0", "4.transformer.layer.2.layernorm_before", "4.transformer.layer.2.layernorm_after"),
        ("deit-tiny", "layer.11.attention.attention.key", "layer.11.attention.attention.query"),
    ],
)
def test_mistakes_would_be_noticed(name: str, first: str, second: str, samples: Samples, tmp_path: Path) -> None:
    """Two tensors of the last layers swapped, the kind of mistake that shapes do not tell."""
    public = samples(name)
    tensors = read_tensors(save(public.model, tmp_path, "safetensors"))
    swapped = {
        key.replace(first, "#").replace(second, first).replace("#", second): array for key, array in tensors.items()
    }
    assert swapped.keys() == tensors.keys()
    proto = PAIRS[name].build(**builder_options(tensors))
    import_weights(proto, swapped)
    error = np.abs(run(proto, public.image) - public.logits).max()
    assert error > 5 * TOLERANCE * np.abs(public.logits).max()


def test_padding_of_mobilenet_matters(samples: Samples, tmp_path: Path) -> None:
    public = samples("mobilenetv2")
    tensors = read_tensors(save(public.model, tmp_path, "safetensors"))
    assert builder_options(tensors) == {"classes": 1001, "padding": "tensorflow"}
    proto = build_mobilenet_v2(classes=1001)
    import_weights(proto, tensors)
    assert np.abs(run(proto, public.image) - public.logits).max() > 0.01 * np.abs(public.logits).max()


def test_other_image_sizes_and_classes(tmp_path: Path) -> None:
    """Feature maps that are no multiples of the patch are resized by both."""
    pair = PAIRS["mobilevit-xxs"]
    other = Pair(
        pair.model,
        pair.config,
        {**pair.settings, "num_labels": 7},
        lambda **options: build_mobilevit("xxs", image_size=224, **options),
        224,
    )
    public = sample(other)
    public.assert_close(run(imported(other, save(public.model, tmp_path, "safetensors")), public.image))


def test_a_distilled_deit_is_refused(tmp_path: Path) -> None:
    import transformers

    config = transformers.DeiTConfig(hidden_size=48, num_attention_heads=3, intermediate_size=64, num_hidden_layers=1)
    for kind in ("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"):
        model = getattr(transformers, kind)(config)
        for form in FORMATS:
            with pytest.raises(ModelError, match="distillation token"):
                builder_options(read_tensors(save(model, tmp_path, form)))
