"""Weights imported by name: against lists of the names and shapes that other code has, and against themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edgevit.errors import ModelError
from edgevit.zoo.deit import build_deit
from edgevit.zoo.mobilenet_v2 import build_mobilenet_v2
from edgevit.zoo.mobilevit import build_mobilevit
from edgevit.zoo.mobilevit_v2 import build_mobilevit_v2
from edgevit.zoo.pit import build_pit
from edgevit.zoo.weights import builder_options, classes_in, import_weights, read_tensors
from edgevit.zoo.weights.detect import NAMINGS
from edgevit.zoo.weights.naming import Naming
from edgevit.zoo.weights.positions import resized, resized_tokens
from tests.models import small_proto
from tests.zoo.checkpoints import Array, simple

Build = Callable[[int], onnx.ModelProto]

LISTS = Path(__file__).parent / "names"
"""What the parameters of public implementations are called, and their shapes."""

PUBLIC: dict[str, Build] = {
    "cvnets-mobilevit-xxs": lambda seed: build_mobilevit("xxs", seed=seed),
    "cvnets-mobilevit-xxs-det": lambda seed: build_mobilevit("xxs", task="det", seed=seed),
    "cvnets-mobilevit-xxs-seg": lambda seed: build_mobilevit("xxs", task="seg", seed=seed),
    "cvnets-mobilevit-xxs-seg-first": lambda seed: build_mobilevit("xxs", task="seg", seed=seed),
    "cvnets-mobilevitv2-0.5": lambda seed: build_mobilevit_v2(0.5, seed=seed),
    "cvnets-mobilenetv2": lambda seed: build_mobilenet_v2(seed=seed),
    "transformers-mobilevit-xxs": lambda seed: build_mobilevit("xxs", seed=seed),
    "transformers-mobilevit-xxs-seg": lambda seed: build_mobilevit("xxs", task="seg", seed=seed),
    "transformers-mobilevitv2-0.5": lambda seed: build_mobilevit_v2(0.5, seed=seed),
    "transformers-mobilenetv2": lambda seed: build_mobilenet_v2(padding="tensorflow", classes=1001, seed=seed),
    "transformers-deit-tiny": lambda seed: build_deit(seed=seed),
    "transformers-deit-tiny-state": lambda seed: build_deit(seed=seed),
    "timm-mobilevit_xxs": lambda seed: build_mobilevit("xxs", seed=seed),
    "timm-mobilevitv2_050": lambda seed: build_mobilevit_v2(0.5, seed=seed),
    "timm-mobilenetv2_100": lambda seed: build_mobilenet_v2(seed=seed),
    "timm-deit_tiny_patch16_224": lambda seed: build_deit(seed=seed),
    "timm-pit_ti_224": lambda seed: build_pit(seed=seed),
}


def shapes(public: str) -> dict[str, tuple[int, ...]]:
    """Tensors of a list, by name."""
    found = {}
    for line in (LISTS / f"{public}.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        module, _, tensors = line.partition(" | ")
        for entry in tensors.split(", "):
            name, size = entry.split(" ")
            found[f"{module}.{name}" if module else name] = () if size == "scalar" else tuple(map(int, size.split("x")))
    return found


def drawn(public: str) -> dict[str, Array]:
    """Numbers for the tensors of a list; counters of batch norms are integers, as in real files."""
    draw = np.random.default_rng(0)
    return {
        name: draw.standard_normal(shape, dtype=np.float32) if shape else np.array(100)
        for name, shape in shapes(public).items()
    }


def parameters(proto: onnx.ModelProto) -> dict[str, Array]:
    """Everything that was drawn from the seed."""
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in proto.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims
    }


@pytest.mark.parametrize("public", PUBLIC)
def test_every_public_name_is_known(public: str) -> None:
    tensors = drawn(public)
    proto = PUBLIC[public](0)
    before = parameters(proto)
    report = import_weights(proto, tensors)
    assert report.source == public.partition("-")[0]
    assert not report.resized
    assert sorted([*report.used, *report.unused]) == sorted(tensors)
    assert all("num_batches_tracked" in name or "aux_head" in name for name in report.unused)
    after = parameters(proto)
    kept = {name for name in before if np.array_equal(before[name], after[name])}
    # Anchors and constants stay; every number of every tensor that is used arrives.
    assert all(name.startswith("det.decode.") or name.endswith((".one", ".zero")) for name in kept)
    arrived = np.sort(np.concatenate([array.ravel() for name, array in after.items() if name not in kept]))
    np.testing.assert_array_equal(arrived, np.sort(np.concatenate([tensors[name].ravel() for name in report.used])))
    onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize("public", PUBLIC)
def test_classes(public: str) -> None:
    wanted = {"transformers-mobilenetv2": 1001, "cvnets-mobilevit-xxs-det": 81}.get(public)
    if wanted is None:
        wanted = 21 if "seg" in public else 1000
    tensors = drawn(public)
    assert classes_in(tensors) == wanted
    padding = {"padding": "tensorflow"} if public == "transformers-mobilenetv2" else {}
    assert builder_options(tensors) == {"classes": wanted, **padding}


def exported(proto: onnx.ModelProto, naming: Naming) -> dict[str, Array]:
    """The checkpoint that a model's parameters would come from."""
    linear = {node.input[1] for node in proto.graph.node if node.op_type == "MatMul"}
    pieces: dict[str, dict[int, Array]] = {}
    for name, array in parameters(proto).items():
        if name.endswith((".weight", ".bias", ".mean", ".var")) or name in ("class_token", "positions"):
            origin = naming.origin(name)
            pieces.setdefault(origin.name, {})[origin.part] = array.T if name in linear else array
    return {
        name: np.concatenate([parts[index] for index in sorted(parts)]) if len(parts) > 1 else parts[0]
        for name, parts in pieces.items()
    }


MODELS: dict[str, list[Build]] = {
    "mobilevit": [
        *(lambda seed, v=variant: build_mobilevit(v, seed=seed) for variant in ("xxs", "xs", "s")),
        lambda seed: build_mobilevit("s", patches=(8, 4, 2), classes=7, seed=seed),
        lambda seed: build_mobilevit("xs", image_size=(192, 256), seed=seed, dynamic=True),
    ],
    "mobilevit_v2": [
        *(lambda seed, w=width: build_mobilevit_v2(w, classes=5, seed=seed) for width in (0.75, 1.25, 2.0)),
        lambda seed: build_mobilevit_v2(0.5, seed=seed, dynamic=True),
    ],
    "mobilenet_v2": [
        lambda seed: build_mobilenet_v2(seed=seed),
        lambda seed: build_mobilenet_v2(width=0.5, classes=3, seed=seed, dynamic=True),
    ],
    "deit": [lambda seed: build_deit(seed=seed), lambda seed: build_deit(image_size=(224, 160), seed=seed)],
    "pit": [lambda seed: build_pit(seed=seed)],
}


@pytest.mark.parametrize("naming", NAMINGS, ids=lambda naming: f"{naming.architecture}-{naming.source}")
def test_there_and_back(naming: Naming) -> None:
    builds = MODELS[naming.architecture]
    if "head" in naming.title:
        tasks = ("det", "seg") if "detection" in naming.title else ("seg",)
        builds = [
            lambda seed, v=variant, t=task: build_mobilevit(v, task=t, seed=seed)
            for variant in ("xxs", "s")
            for task in tasks
        ]
    for build in builds:
        wanted, proto = build(1), build(0)
        tensors = exported(wanted, naming)
        report = import_weights(proto, tensors)
        assert sorted(report.used) == sorted(tensors)
        got, wanted_parameters = parameters(proto), parameters(wanted)
        for name, array in wanted_parameters.items():
            np.testing.assert_array_equal(got[name], array, err_msg=name)
            assert got[name].shape == array.shape


def test_parts_go_where_they_belong() -> None:
    tensors = drawn("timm-deit_tiny_patch16_224")
    proto = build_deit()
    import_weights(proto, tensors)
    got = parameters(proto)
    fused, bias = tensors["blocks.3.attn.qkv.weight"], tensors["blocks.3.attn.qkv.bias"]
    for index, role in enumerate("qkv"):
        rows = slice(192 * index, 192 * (index + 1))
        # Ours are (in, out), square, so that no shape would tell.
        np.testing.assert_array_equal(got[f"layer3.attention.{role}.weight"], fused[rows].T)
        np.testing.assert_array_equal(got[f"layer3.attention.{role}.bias"], bias[rows])
    np.testing.assert_array_equal(got["layer3.attention.out.weight"], tensors["blocks.3.attn.proj.weight"].T)
    np.testing.assert_array_equal(got["head.classifier.weight"], tensors["head.weight"].T)
    tensors = drawn("transformers-mobilevit-xxs")
    proto = build_mobilevit("xxs")
    import_weights(proto, tensors)
    got = parameters(proto)
    layer = "mobilevit.encoder.layer.3.transformer.layer.2"
    for role, theirs in (("q", "query"), ("k", "key"), ("v", "value")):
        name = f"{layer}.attention.attention.{theirs}.weight"
        np.testing.assert_array_equal(got[f"stage4.block.layer2.attention.{role}.weight"], tensors[name].T)
    np.testing.assert_array_equal(got["stage4.block.norm.bias"], tensors["mobilevit.encoder.layer.3.layernorm.bias"])
    np.testing.assert_array_equal(
        got["stage2.1.depthwise.norm.var"],
        tensors["mobilevit.encoder.layer.1.layer.1.conv_3x3.normalization.running_var"],
    )


@pytest.mark.parametrize("kind", ["f2", "f8"])
def test_other_floating_point_types(kind: str) -> None:
    tensors = {name: array.astype(kind) for name, array in drawn("timm-mobilevit_xxs").items()}
    proto = build_mobilevit("xxs")
    import_weights(proto, tensors)
    stem = parameters(proto)["stem.conv.weight"]
    assert stem.dtype == np.float32
    np.testing.assert_array_equal(stem, tensors["stem.conv.weight"].astype(np.float32))


def test_linear_layers_stored_as_convolutions() -> None:
    tensors = drawn("timm-mobilevit_xxs")
    tensors = {name: array[..., None, None] if array.ndim == 2 else array for name, array in tensors.items()}
    proto = build_mobilevit("xxs")
    import_weights(proto, tensors)
    np.testing.assert_array_equal(parameters(proto)["head.classifier.weight"], tensors["head.fc.weight"][:, :, 0, 0].T)


def refusal(tensors: dict[str, Array], **options: str) -> ModelError:
    """What importing into MobileViT-XXS says; the model stays as it is."""
    proto = build_mobilevit("xxs")
    before = proto.SerializeToString()
    with pytest.raises(ModelError) as caught:
        import_weights(proto, tensors, where="a.pt", **options)
    assert proto.SerializeToString() == before
    assert caught.value.where == "a.pt"
    assert caught.value.advice
    return caught.value


def test_everything_wrong_is_said_at_once() -> None:
    tensors = drawn("transformers-mobilevit-xxs")
    del tensors["classifier.bias"]
    del tensors["mobilevit.conv_stem.convolution.weight"]
    tensors["classifier.weight"] = np.zeros((1000, 384), np.float32)
    tensors["extra.weight"] = np.zeros(3, np.float32)
    tensors["mobilevit.conv_1x1_exp.normalization.weight"][3] = np.nan
    tensors["mobilevit.conv_1x1_exp.normalization.bias"] = np.zeros(320, np.int8)
    message = refusal(tensors).message
    assert "2 missing: mobilevit.conv_stem.convolution.weight, classifier.bias;" in message
    assert "1 unknown: extra.weight;" in message
    assert "1 of another shape: classifier.weight (1000x384, the model's is 1000x320);" in message
    numbers = "mobilevit.conv_1x1_exp.normalization.weight, mobilevit.conv_1x1_exp.normalization.bias"
    assert f"2 not of finite floating-point numbers: {numbers}." in message


def test_long_lists_are_cut() -> None:
    tensors = {
        name: array
        for name, array in drawn("timm-mobilevit_xxs").items()
        if not name.startswith("stages.0.") or "tracked" in name
    }
    message = refusal(tensors).message
    assert "15 missing: stages.0.0.conv1_1x1.conv.weight, " in message
    assert message.count("stages.0.0.") == 10
    assert "and 5 more" in message


def test_a_fused_layer_is_named_once() -> None:
    tensors = drawn("cvnets-mobilevit-xxs")
    name = "layer_3.1.global_rep.0.pre_norm_mha.1.qkv_proj.weight"
    tensors[name] = tensors[name][:190]
    assert f"1 of another shape: {name} (190x64, the model's is 192x64)." in refusal(tensors).message
    del tensors[name]
    assert f"1 missing: {name}." in refusal(tensors).message


def test_numbers_too_large_for_float32() -> None:
    tensors = drawn("timm-mobilevit_xxs")
    tensors["stem.bn.bias"] = np.full(16, 1e300)
    assert "finite" in refusal(tensors).message


def test_wrong_models() -> None:
    assert "weights of DeiT (timm), and the model is mobilevit" in refusal(drawn("timm-deit_tiny_patch16_224")).message
    assert "MobileViTV2 (cvnets)" in refusal(drawn("cvnets-mobilevitv2-0.5")).message
    assert "missing" in refusal(drawn("transformers-mobilevit-xxs-seg")).message
    assert "not named as in any source" in refusal({"features.0.0.weight": np.zeros(3)}).message
    assert "not named as in timm" in refusal(drawn("cvnets-mobilevit-xxs"), source="timm").message
    with pytest.raises(ModelError, match="MobileNetV2"):
        builder_options(drawn("timm-mobilenetv2_100"), architecture="mobilevit")
    with pytest.raises(ModelError, match="no model of the zoo"):
        import_weights(small_proto(), drawn("timm-mobilevit_xxs"))


@pytest.mark.parametrize("public", ["timm-deit_tiny_patch16_224", "timm-pit_ti_224", "transformers-deit-tiny"])
def test_distilled_models_are_refused(public: str) -> None:
    tensors = drawn(public)
    if public.startswith("timm"):
        tensors["dist_token"] = np.zeros((1, 1, 192), np.float32)
    else:
        tensors = {re.sub(r"^vit\.", "deit.", name): array for name, array in tensors.items()}
        tensors["deit.embeddings.distillation_token"] = np.zeros((1, 1, 192), np.float32)
    with pytest.raises(ModelError, match="distillation token"):
        builder_options(tensors)


def test_positions_of_another_size() -> None:
    tensors = drawn("timm-deit_tiny_patch16_224")
    grid = np.linspace(-1, 1, 14, dtype=np.float32)
    tensors["pos_embed"][0, 1:] = np.add.outer(grid, 10 * grid).reshape(-1, 1)
    proto = build_deit(image_size=(320, 160))
    report = import_weights(proto, tensors)
    assert report.resized == ("positions",)
    positions = parameters(proto)["positions"]
    assert positions.shape == (1, 1 + 20 * 10, 192)
    np.testing.assert_array_equal(positions[0, 0], tensors["pos_embed"][0, 0])
    table = positions[0, 1:, 0].reshape(20, 10)
    # Away from the edges a plane keeps about the slope that its new size gives it: this kernel has no exact planes.
    np.testing.assert_allclose(np.diff(table, axis=0)[3:-3], 2 / 13 * 14 / 20, rtol=0.2)
    np.testing.assert_allclose(np.diff(table, axis=1)[:, 3:-3], 20 / 13 * 14 / 10, rtol=0.2)
    np.testing.assert_allclose(table, -table[::-1, ::-1], atol=1e-5)

    proto = build_pit(image_size=256)
    assert import_weights(proto, drawn("timm-pit_ti_224")).resized == ("positions",)
    assert np.isfinite(parameters(proto)["positions"]).all()


def test_resizing_to_the_same_size_changes_nothing() -> None:
    table = np.random.default_rng(0).standard_normal((2, 5, 7), dtype=np.float32)
    np.testing.assert_allclose(resized(table, 5, 7), table, atol=1e-6)
    np.testing.assert_allclose(resized(np.ones((3, 4), np.float32), 9, 2), np.ones((9, 2)), rtol=1e-6)
    assert resized_tokens(np.zeros((1, 1 + 15, 8), np.float32), 4, 4, extra=1) is None


def test_positions_of_another_model() -> None:
    tensors = drawn("timm-deit_tiny_patch16_224")
    proto = build_deit()
    for shape in ((1, 197, 384), (1, 16, 192), (16, 192), (1, 1, 192)):
        tensors["pos_embed"] = np.zeros(shape, np.float32)
        with pytest.raises(ModelError, match="1 of another shape: pos_embed"):
            import_weights(proto, tensors)


def test_from_a_file_to_numbers(tmp_path: Path) -> None:
    """A whole checkpoint, with the model's output computed from it."""
    wanted, proto = build_mobilevit("xxs", classes=5, seed=3), build_mobilevit("xxs", classes=5)
    (naming,) = (naming for naming in NAMINGS if (naming.architecture, naming.source) == ("mobilevit", "timm"))
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(simple(exported(wanted, naming)))
    import_weights(proto, read_tensors(path))
    image = {"pixel_values": np.random.default_rng(0).random((1, 3, 256, 256), np.float32)}
    runs = [
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, image)[0]
        for model in (wanted, proto)
    ]
    np.testing.assert_array_equal(*runs)
