"""Accuracy on labelled images: which folder is which class, what is counted, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import edgevit
from edgevit.accuracy.check_dataset import Request, check_dataset, plan_check
from edgevit.accuracy.classification import ClassificationMetric, Proportion
from edgevit.accuracy.dataset import DataSet, open_class_folders
from edgevit.accuracy.view import View
from edgevit.artifact import Artifact
from edgevit.cli.check import check
from edgevit.compiler.compile import compile_model
from edgevit.device.session import Session
from edgevit.errors import ArtifactError, CheckFailed, UserError
from edgevit.model import Model, from_proto, load
from edgevit.model.metadata import Metadata, Preprocessing, attach
from edgevit.model.metadata_labels import Labels
from edgevit.model.metadata_sources import PRESETS
from tests.models import small_proto

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "dark blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
}
PLAIN = Preprocessing(channel_order="RGB", resize=16, crop=16, mean=(0.5, 0.5, 0.5))
SAID = Metadata(task="classification", labels=tuple(COLOURS), preprocessing=PLAIN)


def colour_proto() -> onnx.ModelProto:
    """A classifier that knows colours: the mean of each channel against the six pure ones."""
    matrix = np.array(list(COLOURS.values()), np.float32).T / 255 - 0.5
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 6])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with edgevit.connect() as opened:
        yield opened


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("colours") / "colours.onnx"
    proto = colour_proto()
    attach(proto, SAID)
    path.write_bytes(proto.SerializeToString())
    return load(path)


@pytest.fixture(scope="module")
def artifact(colours: Model) -> Artifact:
    assert colours.source
    return compile_model(colours, "host", verify=False).save(colours.source.with_suffix(".edgevit"))


def saying(metadata: Metadata, artifact: Artifact) -> Artifact:
    return replace(artifact, manifest=artifact.manifest.model_copy(update={"metadata": metadata}))


def paint(root: Path, folder: str, colour: tuple[int, int, int], count: int = 1) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    begun = len(list((root / folder).iterdir()))
    for index in range(begun, begun + count):
        # Of several sizes, none of them the model's.
        Image.new("RGB", (20 + index, 30), colour).save(root / folder / f"{index:02}.png")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four right pictures of each class, and a green one among the red."""
    for name, colour in COLOURS.items():
        paint(tmp_path / "data", name.replace(" ", "_").title(), colour, 4)
    paint(tmp_path / "data", "Red", COLOURS["green"])
    return tmp_path / "data"


# Folders and classes


def folders(root: Path, *names: str) -> Path:
    for name in names:
        paint(root, name, (0, 0, 0))
    return root


@pytest.mark.parametrize(
    ("names", "labels", "indices"),
    [
        (["0", "2", "10"], None, {"0": 0, "10": 10, "2": 2}),
        (["000", "007"], None, {"000": 0, "007": 7}),
        (
            ["Great_White Shark", "tench"],
            Labels(("tench, Tinca tinca", "great white shark")),
            {"Great_White Shark": 1, "tench": 0},
        ),
        (["Tinca tinca"], Labels(("tench, Tinca tinca", "shark")), {"Tinca tinca": 0}),
        (["crane"], Labels(("crane, bird", "crane")), {"crane": 1}),
        (["n02", "n01"], Labels(("a", "b"), ("n01", "n02")), {"n01": 0, "n02": 1}),
        # Digits are labels where the model's labels are digits, else indices.
        (["7", "3"], Labels(("3", "7")), {"3": 0, "7": 1}),
        (["1", "0"], Labels(("cat", "dog")), {"0": 0, "1": 1}),
    ],
)
def test_folders_name_classes(tmp_path: Path, names: list[str], labels: Labels | None, indices: dict[str, int]) -> None:
    data = open_class_folders(folders(tmp_path, *names), classes=11, labels=labels)
    assert data.classes == indices
    assert {sample.name: sample.truth for sample in data.samples} == {f"{k}/00.png": v for k, v in indices.items()}


@pytest.mark.parametrize(
    ("names", "labels", "found"),
    [
        (["cat", "dog"], None, "'cat', 'dog': no class index of the model, whose labels are not known"),
        (["cat", "0"], None, "'cat'"),
        (["cat", "dgo"], Labels(("cat", "dog")), "'dgo': no label or class index of the model"),
        (["cat", "n01"], Labels(("cat", "dog"), ("n00", "n01")), "no label or synset or class index"),
        (["train", "val"], Labels(("cat", "dog")), "'train', 'val'"),
        (["crane"], Labels(("crane, bird", "crane, machine")), "'crane' is the label of the classes 0 and 1"),
        (["3"], None, "'3' is class 3, and the model's 3 classes end at 2"),
        (["-1"], None, "'-1'"),
        (["²"], None, "'²'"),
        ([], None, "has no folders"),
    ],
)
def test_folders_that_are_no_classes(tmp_path: Path, names: list[str], labels: Labels | None, found: str) -> None:
    with pytest.raises(UserError, match=found):
        open_class_folders(folders(tmp_path, *names), classes=3, labels=labels)


def test_every_beginning_is_balanced_and_other_files_are_counted(tmp_path: Path) -> None:
    paint(tmp_path, "0", (0, 0, 0), 3)
    paint(tmp_path, "1", (0, 0, 0), 1)
    paint(tmp_path, "2/more", (0, 0, 0), 2)
    for name in ("0/notes.txt", "0/.hidden.png", "top.png", ".DS_Store", "1/Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    data = open_class_folders(tmp_path, classes=3)
    assert [sample.truth for sample in data.samples] == [0, 1, 2, 0, 2, 0]
    assert data.samples[4].name == "2/more/01.png"
    assert data.ignored == 3


def test_a_data_set_without_images(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    with pytest.raises(UserError, match="no images"):
        open_class_folders(tmp_path, classes=3)
    with pytest.raises(UserError, match="no such folder"):
        open_class_folders(tmp_path / "missing", classes=3)


# Figures


@pytest.mark.parametrize(("count", "of"), [(0, 10), (8, 10), (10, 10), (690, 1000), (1, 1)])
def test_intervals_are_wilsons(count: int, of: int) -> None:
    """Solving (p - share)^2 = z^2 p (1 - p) / n for p gives the two ends (Wilson 1927)."""
    share, z = count / of, 1.959963984540054
    roots = np.sort(np.roots([1 + z**2 / of, -(2 * share + z**2 / of), share**2]).real)
    measured = Proportion.measure(count, of)
    assert measured.value == share
    np.testing.assert_allclose([measured.low, measured.high], roots, atol=1e-7)


def outputs(*scores: float) -> dict[str, Any]:
    return {"logits": np.array([scores], np.float32), "other": np.zeros((1, 3), np.float32)}


def count(metric: ClassificationMetric, truth: int, expected: dict[str, Any], actual: dict[str, Any]) -> None:
    record = metric.judge(truth, View.of((8, 8), PLAIN), expected, actual)
    metric.add(truth, json.loads(json.dumps(record)))


def test_counting() -> None:
    metric = ClassificationMetric("logits", 7, list("abcdefg"))
    rising = outputs(0, 1, 2, 3, 4, 5, 6)
    count(metric, 6, rising, rising)  # best
    count(metric, 2, rising, rising)  # fifth
    count(metric, 1, rising, outputs(0, 9, 2, 3, 4, 5, 6))  # sixth, but the artifact's best
    count(metric, 0, rising, outputs(*[float("nan")] * 7))  # no answer at all
    count(metric, 0, outputs(*[1.0] * 7), outputs(*[1.0] * 7))  # of equal ones the first
    count(metric, 5, outputs(*[1.0] * 7), outputs(*[1.0] * 7))  # and the first five
    result = metric.result()
    assert (result.reference.top1.count, result.artifact.top1.count) == (2, 3)
    assert result.reference.top5
    assert result.artifact.top5
    assert (result.reference.top5.count, result.artifact.top5.count) == (3, 4)
    assert (result.agreement.count, result.agreement.of) == (4, 6)
    assert (result.difference.reference_only, result.difference.artifact_only) == (0, 1)
    assert [(each.name, each.count, each.reference, each.artifact) for each in result.classes] == [
        ("a", 2, 0.5, 0.5),
        ("b", 1, 0.0, 1.0),
        ("c", 1, 0.0, 0.0),
        ("f", 1, 0.0, 0.0),
        ("g", 1, 1.0, 1.0),
    ]


def test_infinite_scores_are_ranked_and_two_nans_do_not_agree() -> None:
    metric = ClassificationMetric("logits", 3)
    masked = outputs(float("-inf"), 0, float("-inf"))
    count(metric, 1, masked, masked)
    count(metric, 1, outputs(0, float("nan"), 0), outputs(0, float("nan"), 0))
    result = metric.result()
    assert (result.reference.top1.count, result.artifact.top1.count, result.agreement.count) == (1, 1, 1)
    assert result.artifact.top5 is None


# The whole of it


def test_accuracy_of_both_in_one_pass(artifact: Artifact, colours: Model, session: Session, pictures: Path) -> None:
    counts: list[tuple[int, int]] = []
    result = check_dataset(
        artifact, session, colours, Request(pictures), progress=lambda done, total: counts.append((done, total))
    )
    for accuracy in (result.scores.reference, result.scores.artifact):
        assert (accuracy.top1.count, accuracy.top1.of) == (24, 25)  # the green one among the red
        assert accuracy.top5
    assert result.scores.agreement.value == 1
    assert (result.classes, result.available, result.run.images) == (6, 25, 25)
    assert result.preprocessing_from == "the artifact"
    assert result.run.unreadable == ()
    for rate in (result.run.decoding, result.run.reference_rate, result.run.device_rate):
        assert rate.images_per_second
    assert result.run.images_per_second
    assert counts == [(done, 25) for done in range(26)]


def test_a_wrong_channel_order_costs_accuracy(
    artifact: Artifact, colours: Model, session: Session, pictures: Path
) -> None:
    """Red and blue change places, yellow and cyan too: only green, its stray picture and magenta survive."""
    wrong = PLAIN.model_copy(update={"channel_order": "BGR"})
    result = check_dataset(artifact, session, colours, Request(pictures, preprocess=wrong))
    assert result.scores.artifact.top1.count == result.scores.reference.top1.count == 8
    assert result.preprocessing_from == "the call"


def test_a_wrong_artifact_agrees_less(
    artifact: Artifact, colours: Model, session: Session, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgevit.device.rpc import RpcModel

    right = RpcModel.run_batch

    def inverted(self: RpcModel, *args: Any, **options: float) -> object:
        return [{name: -value for name, value in one.items()} for one in right(self, *args, **options)]

    monkeypatch.setattr(RpcModel, "run_batch", inverted)
    result = check_dataset(artifact, session, colours, Request(pictures))
    assert result.scores.reference.top1.count == 24
    assert result.scores.artifact.top1.count == 0
    assert result.scores.agreement.count == 0


def test_a_limit_takes_from_all_classes(artifact: Artifact, colours: Model, session: Session, pictures: Path) -> None:
    result = check_dataset(artifact, session, colours, Request(pictures, limit=6))
    assert (result.scores.artifact.top1.count, result.run.images, result.available) == (6, 6, 25)
    plan = plan_check(artifact, Request(pictures, limit=6))
    assert isinstance(plan.data, DataSet)
    assert {sample.truth for sample in plan.data.samples[:6]} == set(range(6))


def test_unreadable_images_are_named_counted_and_left_out(
    artifact: Artifact, colours: Model, session: Session, pictures: Path
) -> None:
    (pictures / "Red" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    Image.new("F", (20, 20)).save(pictures / "Cyan" / "float.tif")
    result = check_dataset(artifact, session, colours, Request(pictures))
    assert (result.run.images, result.available) == (25, 27)
    assert sorted(image.name for image in result.run.unreadable) == ["Cyan/float.tif", "Red/broken.jpg"]
    assert {image.name: "mode 'F'" in image.reason for image in result.run.unreadable}["Cyan/float.tif"]


def test_no_image_can_be_used(artifact: Artifact, colours: Model, session: Session, tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "broken.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 1 images could be used; 0/broken.png: cannot read"):
        check_dataset(artifact, session, colours, Request(tmp_path))


def test_another_model_is_no_reference(artifact: Artifact, session: Session, pictures: Path) -> None:
    with pytest.raises(ArtifactError, match="compiled from another model"):
        check_dataset(artifact, session, from_proto(small_proto()), Request(pictures))


def test_photographs(artifact: Artifact, colours: Model, session: Session, flowers: Path, tmp_path: Path) -> None:
    """Colours do not make a botanist, but both see the same."""
    labels = tmp_path / "labels.txt"
    labels.write_text("roses\ndandelion\nweed\nsunflowers\ntulips\ndaisy\n")
    result = check_dataset(artifact, session, colours, Request(flowers, labels=labels, preprocess="inception"))
    assert (result.run.images, result.run.unreadable, result.classes) == (250, (), 5)
    assert result.scores.agreement.count >= 248
    assert result.preprocessing == PRESETS["inception"].model_copy(update={"resize": 18, "crop": 16})
    assert abs(result.scores.artifact.top1.count - result.scores.reference.top1.count) <= 2


# Nothing is guessed


@pytest.mark.parametrize(
    ("metadata", "options", "found"),
    [
        (Metadata(task="classification", labels=tuple(COLOURS)), {}, "how images are prepared.*--preprocess"),
        (Metadata(task="classification", preprocessing=PLAIN), {}, "whose labels are not known.*--labels"),
        (Metadata(task="segmentation", preprocessing=PLAIN), {}, "with one score for each class.*1xCxHxW"),
        (SAID, {"task": "det"}, r"how its boxes and scores become objects.*\[detection\]"),
        (SAID, {"task": "counting"}, "the task is counting.*--task cls"),
        (SAID, {"classes": "order"}, "--classes order is for data sets in COCO's format"),
        (SAID, {"preprocess": "imagnet"}, "no preset"),
        (SAID, {"labels": Path("missing.txt")}, "cannot read the labels"),
    ],
)
def test_what_nobody_states_is_refused(
    artifact: Artifact, pictures: Path, metadata: Metadata, options: dict[str, Any], found: str
) -> None:
    with pytest.raises(UserError, match=found):
        plan_check(saying(metadata, artifact), Request(pictures, **options))


def test_options_state_what_the_artifact_does_not(artifact: Artifact, pictures: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(COLOURS))
    bare = saying(Metadata(), artifact)
    plan = plan_check(bare, Request(pictures, preprocess="imagenet", labels=labels))
    assert plan.preprocessing == PRESETS["imagenet"]
    assert plan.preprocessing_from == "--preprocess imagenet"
    assert plan.data.classes["Dark_Blue"] == 2
    labels.write_text("red\ngreen\n")
    with pytest.raises(UserError, match=r"labels\.txt: there are 2 labels, and output 'logits' has 6 classes"):
        plan_check(bare, Request(pictures, preprocess="imagenet", labels=labels))


def test_imagenet_folders_may_be_synsets(artifact: Artifact, tmp_path: Path) -> None:
    """A model with ImageNet's labels takes the folders of ImageNet's own validation set."""
    from edgevit.accuracy.check_dataset import _with_synsets
    from edgevit.zoo.about import known_labels

    for classes, tench in ((1000, 0), (1001, 1)):
        names = known_labels("cls", classes)
        assert names
        data = open_class_folders(folders(tmp_path, "n01440764"), classes=classes, labels=_with_synsets(names))
        assert data.classes == {"n01440764": tench}


def test_inputs_that_are_no_image_are_refused(pictures: Path) -> None:
    proto = colour_proto()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    batched = saying(SAID, compile_model(from_proto(proto), "host", verify=False))
    with pytest.raises(UserError, match=r"the artifact takes image float32\[2, 3, 16, 16\]"):
        plan_check(batched, Request(pictures))


# The command


def test_command(artifact: Artifact, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert artifact.path
    (pictures / "Red" / "[red]broken.png").write_bytes(b"")
    (pictures / "notes.txt").write_text("")
    check(artifact.path, dataset=pictures, min_top1=0.9)
    shown = " ".join(capsys.readouterr().out.split())
    assert "96.0% (80.5% to 99.3%)" in shown
    assert "same top-1: 100.0% (86.7% to 100.0%), 25 of 25" in shown
    assert "images: 25 of 26 in 6 classes, at 1x3x16x16" in shown
    assert "images per second of each stage: decoding " in shown
    assert "McNemar's exact test: p = 1" in shown
    assert "passed: 100.0% of the reference's top-1, floor 98.0%" in shown
    assert "from the artifact" in shown
    assert "left out, unreadable: 1 Red/[red]broken.png: cannot read the image" in shown
    assert "files that are no images: 1" in shown


def test_command_under_the_floor(artifact: Artifact, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert artifact.path
    with pytest.raises(CheckFailed, match=r"top-1 is 0\.9600, under the floor of 0\.97") as caught:
        check(artifact.path, dataset=pictures, min_top1=0.97, as_json=True)
    assert caught.value.exit_code == 1
    said = json.loads(capsys.readouterr().out)
    assert said["scores"]["artifact"]["top1"]["value"] == 0.96
    assert said["images_per_second"] > 0


def test_command_refuses_options_that_mean_nothing(artifact: Artifact, pictures: Path) -> None:
    assert artifact.path
    with pytest.raises(UserError, match="--min-top1 needs --dataset"):
        check(artifact.path, min_top1=0.5)
    with pytest.raises(UserError, match="--resume needs --dataset"):
        check(artifact.path, resume=True)
    with pytest.raises(UserError, match="classes cannot be found by 'colour'"):
        check(artifact.path, dataset=pictures, classes="colour")
    with pytest.raises(UserError, match="--min-map is for detection, and the task is classification"):
        check(artifact.path, dataset=pictures, min_map=0.5)
    with pytest.raises(UserError, match="--preprocess needs --dataset"):
        check(artifact.path, preprocess="mobilevit")
    with pytest.raises(UserError, match="--bisect does not go with --dataset"):
        check(artifact.path, dataset=pictures, bisect=True)
    with pytest.raises(UserError, match="not compiled for these input shapes"):
        check(artifact.path, dataset=pictures, shape="1x3x32x32")
