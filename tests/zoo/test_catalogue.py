"""The catalogue: every model's figures beside the published ones, and what its file says of it."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, shape_inference

import edgevit
from edgevit.errors import ModelError, UserError
from edgevit.model.graph import value_shapes
from edgevit.model.macs import node_macs
from edgevit.model.metadata import Metadata, read_metadata
from edgevit.zoo import CATALOGUE, build
from edgevit.zoo.about import known_labels
from edgevit.zoo.catalogue import find, make
from edgevit.zoo.counts import count
from edgevit.zoo.published import IPHONE_12, PATCH_SIZES, PUBLISHED, Figure

EVERY = [(entry.name, task) for entry in CATALOGUE.values() for task in entry.tasks]
NAMES = Path(__file__).parent / "names"


def about(name: str, **options: object) -> Metadata:
    return read_metadata(build(name, **options))


def outputs(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    image = np.random.default_rng(0).random(shape, np.float32)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"pixel_values": image}), strict=True))


def test_everything_in_the_catalogue_is_published() -> None:
    assert sorted(PUBLISHED) == sorted(EVERY)
    assert {phone.model for phone in IPHONE_12} <= set(CATALOGUE)


@pytest.mark.parametrize(("name", "task"), EVERY, ids="-".join)
def test_parameters_and_macs_beside_the_published_ones(name: str, task: str) -> None:
    known = PUBLISHED[name, task]
    ours = count(make(name, task=task))
    figures = [("parameters", known.parameters, ours.parameters)]
    for figure in known.macs:
        at = count(make(name, task=task, image_size=figure.image_size)) if figure.image_size else ours
        figures.append(("MACs", figure, at.macs))
    for what, figure, counted in figures:
        note = f"; {figure.why}" if figure.why else ""
        size = f" at {figure.image_size}" if figure.image_size else ""
        print(
            f"{name:17} {task} {what}{size}: published {figure.text} ({figure.source.short}, {figure.place}), "
            f"counted {counted:,}: {counted / figure.value - 1:+.1%}{note}"
        )
    # A reason is given where, and only where, one is needed.
    assert all(figure.agrees(counted) == (figure.why is None) for _, figure, counted in figures)
    assert all(figure.source.citation and figure.place for _, figure, _ in figures)


@pytest.mark.parametrize(
    ("text", "ours", "agrees"),
    [("1.3 M", 1.35e6, True), ("1.3 M", 1.36e6, False), ("18.5 M", 18.2e6, True), ("0.3 G", 0.349e9, True)],
)
def test_a_figure_is_known_as_finely_as_it_is_printed(text: str, ours: float, agrees: bool) -> None:
    assert Figure(text, PUBLISHED["pit-ti", "cls"].parameters.source, "").agrees(ours) == agrees


def test_the_reasons_count_as_they_say() -> None:
    def without_attention(task: str, size: int) -> tuple[str, str]:
        proto = shape_inference.infer_shapes(build("mobilevit-xs", task=task, image_size=size))
        shapes, weights = value_shapes(proto.graph), {tensor.name for tensor in proto.graph.initializer}
        products = [n for n in proto.graph.node if n.op_type == "MatMul" and n.input[1] not in weights]
        assert len(products) == 18
        macs = count(make("mobilevit-xs", task=task, image_size=size)).macs
        without = macs - sum(node_macs(n, shapes) for n in products)
        return f"{without / 1e9:.2f}", f"{macs / 1e9:.2f}"

    for task, size in (("cls", 224), ("det", 320), ("seg", 512)):
        why = " ".join(figure.why or "" for figure in PUBLISHED["mobilevit-xs", task].macs)
        assert all(f"{figure} G" in why for figure in without_attention(task, size)), why


def test_larger_patches_leave_the_parameters_and_change_the_products() -> None:
    ours = [count(make("mobilevit-s", patches=row.patches)) for row in PATCH_SIZES]
    assert len({counts.parameters for counts in ours}) == 1
    assert ours[3].macs < ours[2].macs < ours[0].macs < ours[1].macs


@pytest.mark.parametrize(("name", "task"), EVERY, ids="-".join)
def test_the_file_says_what_it_is(name: str, task: str) -> None:
    built = make(name, task=task)
    said = read_metadata(built.proto)
    assert said == built.about
    assert said.task == {"cls": "classification", "det": "detection", "seg": "segmentation"}[task]
    assert said.labels is not None
    shape = [dim.dim_value for dim in built.proto.graph.output[-1].type.tensor_type.shape.dim]
    assert len(said.labels) == (shape[2] if task == "det" else shape[1]) == built.classes
    assert said.preprocessing is not None
    size = built.image_size
    assert (said.preprocessing.crop or said.preprocessing.resize) == (size[0] if task == "cls" else size)
    assert (said.detection is None) == (task != "det")
    if said.detection:
        boxes = sum(level.height * level.width * len(level.sizes) for level in said.detection.anchors)
        assert boxes == shape[1]


def test_a_loaded_model_knows_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(
        build("mobilevit-xxs", task="seg", image_size=64, classes=3, labels=("sky", "sea", "sand")).SerializeToString()
    )
    model = edgevit.load(path)
    assert model.about.task == "segmentation"
    assert model.about.labels == ("sky", "sea", "sand")


def test_preprocessing_follows_the_reference_and_the_image_size() -> None:
    def sentence(name: str, **options: object) -> str:
        preprocessing = about(name, **options).preprocessing
        assert preprocessing is not None
        return preprocessing.sentence()

    assert sentence("mobilevit-s") == "resize short side to 288 (bilinear), crop 256, BGR, scale 1/255"
    assert sentence("mobilevit-s", image_size=160) == "resize short side to 180 (bilinear), crop 160, BGR, scale 1/255"
    assert sentence("mobilevit-xs", task="det", image_size=(240, 320)).startswith(
        "resize to 240x320 (bilinear), no crop"
    )
    assert sentence("mobilevit-xs", image_size=(96, 128)).startswith("resize to 96x128 (bilinear), no crop, BGR")
    assert sentence("mobilevitv2-0.5").startswith("resize short side to 288 (bicubic), crop 256, RGB")
    normalized = "RGB, scale 1/255, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    assert sentence("mobilenetv2") == f"resize short side to 256 (bilinear), crop 224, {normalized}"
    for name in ("deit-tiny", "pit-ti"):
        assert sentence(name) == f"resize short side to 248 (bicubic), crop 224, {normalized}"


def test_labels_are_the_data_sets() -> None:
    imagenet = known_labels("cls", 1000)
    assert imagenet is not None
    assert [imagenet[index] for index in (0, 281, 817, 999)] == ["tench", "tabby", "sports car", "toilet tissue"]
    assert known_labels("cls", 1001) == ("background", *imagenet)
    coco = known_labels("det", 81)
    assert coco is not None
    assert (len(coco), coco[:2], coco[-1]) == (81, ("background", "person"), "toothbrush")
    voc = known_labels("seg", 21)
    assert voc is not None
    assert (len(voc), voc[0], voc[-1]) == (21, "background", "tvmonitor")
    assert known_labels("cls", 7) is None


def test_label_files_name_every_class_once() -> None:
    folder = Path(edgevit.__file__).parent / "zoo" / "labels"
    synsets = [line.split()[0] for line in (folder / "imagenet.txt").read_text(encoding="utf-8").splitlines()]
    assert len(set(synsets)) == 1000
    assert synsets == sorted(synsets)
    lines = [line.split(" ", 1) for line in (folder / "coco.txt").read_text(encoding="utf-8").splitlines()]
    assert len({name for _, name in lines}) == 80
    # The data set has 91 numbers, of which eleven are not annotated.
    assert set(range(1, 91)) - {int(number) for number, _ in lines} == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


@pytest.mark.parametrize(
    ("name", "options", "shapes"),
    [
        ("mobilevit-xs", {"image_size": (64, 96), "classes": 4, "patches": (8, 4, 2)}, {"logits": (1, 4)}),
        ("mobilevit-xxs", {"task": "seg", "image_size": 96, "classes": 2}, {"logits": (1, 2, 6, 6)}),
        (
            "mobilevit-xxs",
            {"task": "det", "image_size": 64, "classes": 3},
            {"boxes": (1, 142, 4), "scores": (1, 142, 3)},
        ),
        ("mobilevitv2-0.5", {"image_size": 64, "classes": 4}, {"logits": (1, 4)}),
        ("mobilenetv2", {"image_size": 64, "classes": 4}, {"logits": (1, 4)}),
        ("deit-tiny", {"image_size": 64, "classes": 4}, {"logits": (1, 4)}),
        ("pit-ti", {"image_size": 64, "classes": 4}, {"logits": (1, 4)}),
    ],
)
def test_what_is_asked_for_is_built(name: str, options: dict[str, object], shapes: dict[str, tuple[int, ...]]) -> None:
    found = outputs(build(name, **options))
    assert {output: value.shape for output, value in found.items()} == shapes
    assert all(np.isfinite(value).all() for value in found.values())


def test_the_same_arguments_give_the_same_bytes() -> None:
    first, again, other = (
        build("mobilevit-xxs", classes=5, seed=seed).SerializeToString(deterministic=True) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_a_model_of_open_size_has_the_figures_of_the_size_it_was_built_at() -> None:
    dynamic = make("mobilevit-xxs", image_size=192, dynamic=True)
    assert dynamic.proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param
    assert count(dynamic) == count(make("mobilevit-xxs", image_size=192))


@pytest.fixture(scope="module")
def timm_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like timm's of MobileNetV2, with random numbers."""
    return _weight_file(tmp_path_factory.mktemp("weights"), "timm-mobilenetv2_100")


def _weight_file(folder: Path, listing: str) -> Path:
    random = np.random.default_rng(0)
    entries = {}
    for line in (NAMES / f"{listing}.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        module, tensors = line.split(" | ")
        for name, shape in (item.split() for item in tensors.split(", ")):
            extents = () if shape == "scalar" else tuple(map(int, shape.split("x")))
            counter = name == "num_batches_tracked"
            array = np.zeros(extents, np.int64) if counter else random.random(extents, np.float32)
            entries[f"{module}.{name}"] = ("I64" if counter else "F32", array)
    path = folder / f"{listing}.safetensors"
    path.write_bytes(checkpoints.safetensors_file(entries))
    return path


def test_weights_take_the_place_of_the_seeded_ones_and_tell_their_source(timm_weights: Path) -> None:
    built = make("mobilenetv2", weights=timm_weights)
    assert (built.source, built.classes) == ("timm", 1000)
    assert built.about.preprocessing is not None
    assert built.about.preprocessing.interpolation == "bicubic"
    seeded = {tensor.name: tensor for tensor in build("mobilenetv2").graph.initializer}
    stem = next(tensor for tensor in built.proto.graph.initializer if tensor.name == "stem.conv.weight")
    assert numpy_helper.to_array(stem).min() >= 0 > numpy_helper.to_array(seeded[stem.name]).min()


def test_weights_decide_the_classes_and_the_padding(tmp_path: Path) -> None:
    built = make("mobilenetv2", weights=_weight_file(tmp_path, "transformers-mobilenetv2"))
    assert (built.source, built.classes) == ("transformers", 1001)
    assert built.about.labels is not None
    assert built.about.labels[:2] == ("background", "tench")
    assert built.about.preprocessing is not None
    assert built.about.preprocessing.mean == (0.5, 0.5, 0.5)


def test_weights_of_another_model_are_refused(timm_weights: Path) -> None:
    with pytest.raises(ModelError, match="MobileNetV2"):
        build("deit-tiny", weights=timm_weights)
    with pytest.raises(ModelError, match="classifier"):
        build("mobilenetv2", weights=timm_weights, classes=10)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("mobilevit-l", {}, "Did you mean mobilevit-"),
        ("yolo", {}, "no model 'yolo' in the zoo. 'edgevit zoo' lists all"),
        ("deit-tiny", {"task": "det"}, "mobilevit-xxs, mobilevit-xs, mobilevit-s have it"),
        ("mobilevit-s", {"task": "pose"}, "Choose from cls, det, seg"),
        ("mobilenetv2", {"patches": (2, 2, 2)}, "patches of mobilenetv2 are fixed"),
        ("pit-ti", {"dynamic": True}, "positions belong to one size"),
        ("mobilevit-s", {"task": "det", "dynamic": True}, "anchors belong to one size"),
        ("mobilevit-s", {"labels": ("cat",)}, "1 labels for 1000 classes"),
        ("mobilevit-s", {"image_size": 8}, "too small"),
    ],
)
def test_refusals(name: str, options: dict[str, object], match: str) -> None:
    with pytest.raises(UserError) as caught:
        build(name, **options)
    assert match in str(caught.value)


def test_names_are_forgiving_in_nothing_but_advice() -> None:
    assert find("mobilevit-s").title == "MobileViT-S"
    with pytest.raises(UserError, match="Did you mean mobilevit-s"):
        find("MobileViT-S")
