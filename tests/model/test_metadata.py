"""What a model says of itself: stored in the file, completed from elsewhere, never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from pydantic import ValidationError

import edgevit
from edgevit.cli.info import info
from edgevit.errors import ModelError, UserError
from edgevit.model import describe, from_proto
from edgevit.model.metadata import AnchorLevel, Detection, Metadata, Preprocessing, attach, read_metadata
from edgevit.model.metadata_labels import Labels, class_count, read_labels
from edgevit.model.metadata_sources import PRESETS, parse_preprocessing, read_toml
from edgevit.model.types import TensorSpec
from tests.models import small_proto

NAMES = tuple(f"class {index}" for index in range(10))
NOTHING = Metadata()
BGR = Preprocessing(resize=288, crop=256, channel_order="BGR")


def save(folder: Path, metadata: Metadata = NOTHING) -> Path:
    proto = small_proto()
    attach(proto, metadata)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_what_is_attached_is_read_again() -> None:
    level = AnchorLevel(height=2, width=3, sizes=((0.1, 0.2), (0.3, 0.4)))
    full = Metadata(
        task="detection",
        labels=("background", "tench, Tinca tinca", "ガ"),
        preprocessing=Preprocessing(resize=(320, 300), channel_order="RGB", mean=(0.1, 0.2, 0.3), scale=1 / 255),
        detection=Detection(anchors=(level,), background=None),
    )
    for metadata in (full, Metadata(), Metadata(labels=("a",))):
        proto = small_proto()
        attach(proto, metadata)
        assert read_metadata(proto) == metadata
        assert read_metadata(onnx.load_from_string(proto.SerializeToString())) == metadata


def test_attaching_replaces_ours_and_keeps_others() -> None:
    proto = small_proto()
    proto.metadata_props.add(key="author", value="somebody")
    attach(proto, Metadata(task="segmentation", labels=("a", "b")))
    attach(proto, Metadata(task="classification"))
    assert {entry.key: entry.value for entry in proto.metadata_props} == {
        "author": "somebody",
        "edgevit.task": '"classification"',
    }


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("edgevit.task", "classification"),
        ("edgevit.task", '"counting"'),
        ("edgevit.task", '"classification", "labels": ["a"]'),
        ("edgevit.labels", '["a", 7]'),
        ("edgevit.labels", ""),
        ("edgevit.labels", "[" * 100_000),
        ("edgevit.preprocessing", "[1]"),
        ("edgevit.preprocessing", '{"resize": 256}'),
        ("edgevit.preprocessing", '{"channel_order": "RGB", "scale": 1e999}'),
        ("edgevit.preprocessing", '{"channel_order": "RGB", "mean": [NaN, 0, 0]}'),
        ("edgevit.preprocessing", '{"channel_order": "RGB", "std": [1, 0, 1]}'),
        ("edgevit.preprocessing", '{"channel_order": "RGB", "resize": 200, "crop": 224}'),
        ("edgevit.detection", '{"anchors": [], "surprise": 1}'),
    ],
)
def test_a_damaged_value_is_refused_by_its_key(key: str, text: str) -> None:
    proto = small_proto()
    proto.metadata_props.add(key=key, value=text)
    with pytest.raises(ModelError, match=key):
        from_proto(proto)


def test_keys_of_others_are_left_alone() -> None:
    proto = small_proto()
    proto.metadata_props.add(key="labels", value="no JSON")
    model = from_proto(proto)
    assert model.metadata == {"labels": "no JSON"}
    assert model.about == Metadata()


# Sources and their precedence


def test_the_file_speaks_for_itself(tmp_path: Path) -> None:
    metadata = Metadata(task="classification", labels=NAMES, preprocessing=BGR)
    model = edgevit.load(save(tmp_path, metadata))
    assert model.about == metadata
    assert not any("metadata" in note for note in model.notes)


def test_a_toml_file_beside_the_model_goes_before_it_field_by_field(tmp_path: Path) -> None:
    path = save(tmp_path, Metadata(task="classification", labels=NAMES, preprocessing=BGR))
    (tmp_path / "model.toml").write_text('labels = "names.txt"\n[preprocessing]\npreset = "imagenet"\ncrop = 192\n')
    (tmp_path / "names.txt").write_text("\n".join(f"other {index}" for index in range(10)))
    model = edgevit.load(path)
    assert model.about.task == "classification"
    assert model.about.labels is not None
    assert model.about.labels[9] == "other 9"
    assert model.about.preprocessing == PRESETS["imagenet"].model_copy(update={"crop": 192})
    assert "metadata: labels and preprocessing from model.toml" in model.notes


def test_the_option_goes_before_everything(tmp_path: Path) -> None:
    path = save(tmp_path, Metadata(preprocessing=BGR))
    (tmp_path / "model.toml").write_text('task = "classification"\n[preprocessing]\npreset = "imagenet"\n')
    model = edgevit.load(path, preprocess="inception")
    assert model.about.preprocessing == PRESETS["inception"]
    assert "metadata: preprocessing from --preprocess inception, task from model.toml" in model.notes


def test_the_option_may_be_a_file_or_an_object(tmp_path: Path) -> None:
    path = save(tmp_path)
    other = tmp_path / "other.toml"
    other.write_text('labels = ["a","b","c","d","e","f","g","h","i","j"]\n[preprocessing]\nchannel_order = "BGR"\n')
    about = edgevit.load(path, preprocess=str(other)).about
    assert about.labels == tuple("abcdefghij")
    assert about.preprocessing == Preprocessing(channel_order="BGR")
    assert edgevit.load(path, preprocess=other).about == about
    assert edgevit.load(path, preprocess=BGR).about == Metadata(preprocessing=BGR)
    other.write_text('task = "classification"\n')
    with pytest.raises(UserError, match="says nothing of preprocessing"):
        edgevit.load(path, preprocess=other)


def test_the_source_does_not_change_the_identity_of_the_model(tmp_path: Path) -> None:
    path = save(tmp_path)
    assert edgevit.load(path).sha256 == edgevit.load(path, preprocess="mobilevit").sha256


@pytest.mark.parametrize(
    ("toml", "found"),
    [
        ("task = 3", "task"),
        ("labels = 3", "labels"),
        ('labels = "missing.txt"', "cannot read the labels"),
        ('label = ["a"]', "'label'.*Did you mean labels"),
        ('[preprocessing]\nchannel_order = "RGB"\nsize = 3', "'size'"),
        ('[preprocessing]\nchannel_order = "GBR"', "'RGB' or 'BGR'"),
        ("[preprocessing]\nresize = 256", "no channel order"),
        ('[preprocessing]\npreset = "imagnet"', "Did you mean imagenet"),
        ("[preprocessing]\npreset = 1", "no preset"),
        ("preprocessing = 1", "preprocessing"),
        ("[detection]\nanchors = []\nscore = 1", "'score'.*score_threshold"),
        ("[detection]\nanchors = [{height = 1, width = 1, sizes = [], depth = 1}]", "'depth'.*height, width, sizes"),
        ("[preprocessing", "not valid TOML"),
        ("\0", "not valid TOML"),
    ],
)
def test_a_wrong_toml_file_is_refused_with_the_key(tmp_path: Path, toml: str, found: str) -> None:
    path = save(tmp_path)
    (tmp_path / "model.toml").write_text(toml)
    with pytest.raises(UserError, match=found) as caught:
        edgevit.load(path)
    assert caught.value.where
    assert caught.value.where.startswith((str(tmp_path / "model.toml"), str(tmp_path / "missing.txt")))


# Settings on the command line


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("mobilevit", BGR),
        (
            "resize=288,crop=256,order=BGR,scale=1/255,mean=0,std=1",
            BGR,
        ),
        ("channel_order=RGB", Preprocessing(channel_order="RGB")),
        ("mobilevit, order = RGB", BGR.model_copy(update={"channel_order": "RGB"})),
        (
            "order=RGB,resize=320x300,interpolation=bicubic,scale=1,mean=123.7:116.3:103.5,std=255/2",
            Preprocessing(
                channel_order="RGB",
                resize=(320, 300),
                interpolation="bicubic",
                scale=1.0,
                mean=(123.7, 116.3, 103.5),
                std=(127.5, 127.5, 127.5),
            ),
        ),
        (
            "imagenet,crop=none,resize=224x224",
            PRESETS["imagenet"].model_copy(update={"resize": (224, 224), "crop": None}),
        ),
    ],
)
def test_settings(text: str, meant: Preprocessing) -> None:
    assert parse_preprocessing(text) == meant


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mobilvit", "Did you mean mobilevit"),
        ("", "no preset ''"),
        ("resize=256,crop=224", "no channel order"),
        ("order=RGB,size=256", "no key 'size'"),
        ("order=RGB,crop", "not key=value"),
        ("order=RGB,crop=", "not key=value"),
        ("order=RGB,order=BGR", "given twice"),
        ("order=RGB,imagenet", "not key=value"),
        ("order=RGB,preset=imagenet", "out of place"),
        ("order=RGB,scale=1/0", "'1/0' is no number"),
        ("order=RGB,scale=one", "'one' is no number"),
        ("order=RGB,scale=-1", "scale"),
        ("order=RGB,scale=nan", "scale"),
        ("order=RGB,std=0", "std"),
        ("order=RGB,mean=1:2", "mean"),
        ("order=RGB,resize=12.5", "'12.5' is no number of pixels"),
        ("order=RGB,resize=0", "resize"),
        ("order=RGB,resize=1x2x3", "resize"),
        ("order=RGB,crop=224x224", "crop"),
        ("order=rgb", "channel_order"),
        ("order=RGB,interpolation=nearest", "interpolation"),
        ("mobilevit,crop=300", "crop of 300 is larger than the resize to 288"),
        ("order=RGB,resize=300x200,crop=224", "crop of 224 is larger than the resize to 300x200"),
    ],
)
def test_wrong_settings_are_refused(text: str, found: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_preprocessing(text)
    assert caught.match(found)
    assert caught.value.advice


# Another input size than the one that was stated


@pytest.mark.parametrize(
    ("stated", "size", "meant"),
    [
        (BGR, 256, (288, 256)),
        (BGR, 160, (180, 160)),
        (BGR, 320, (360, 320)),
        (PRESETS["imagenet"], 160, (183, 160)),  # 182.86
        (PRESETS["imagenet"], 112, (128, 112)),
        (Preprocessing(channel_order="RGB", resize=(288, 320), crop=256), 128, ((144, 160), 128)),
        (Preprocessing(channel_order="RGB", resize=(320, 320)), 64, ((64, 64), None)),
        (Preprocessing(channel_order="RGB", resize=224), 96, (96, None)),
        (Preprocessing(channel_order="RGB", crop=224), 96, (None, 96)),
        (Preprocessing(channel_order="RGB"), 96, (None, None)),
    ],
)
def test_another_input_size_scales_resize_and_crop(stated: Preprocessing, size: int, meant: tuple[Any, Any]) -> None:
    fitted = stated.for_size(size, size)
    assert (fitted.resize, fitted.crop) == meant
    assert fitted.model_copy(update={"resize": stated.resize, "crop": stated.crop}) == stated


def test_a_rectangle_needs_an_exact_size() -> None:
    assert Preprocessing(channel_order="RGB", resize=(5, 6)).for_size(128, 256).resize == (128, 256)
    for stated in (BGR, Preprocessing(channel_order="RGB", resize=224)):
        with pytest.raises(UserError, match="the model takes 128x256"):
            stated.for_size(128, 256)


def test_a_crop_larger_than_the_resize_is_no_preprocessing() -> None:
    with pytest.raises(ValidationError, match="crop of 256"):
        Preprocessing(channel_order="RGB", resize=224, crop=256)


# Labels


def test_labels_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufefftench, Tinca tinca\r\n café\u2028x \r\n\n".encode())
    assert read_labels(path) == Labels(("tench, Tinca tinca", "café\u2028x"))
    path.write_text("n01440764 tench\nn01443537\tgoldfish\nn02012849\n")
    assert read_labels(path) == Labels(("tench", "goldfish", "n02012849"), ("n01440764", "n01443537", "n02012849"))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "no labels"),
        (b"\n\n", "no labels"),
        (b"a\n\nb\n", ":2: the line is empty"),
        (b"n01440764 a\nb\n", ":2: the line begins with no synset"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"a" * (5 << 20), "too large"),
    ],
)
def test_label_files_that_leave_a_question(tmp_path: Path, data: bytes, found: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=found):
        read_labels(path)


def test_as_many_labels_as_classes(tmp_path: Path) -> None:
    path = save(tmp_path, Metadata(task="classification", labels=NAMES[:9]))
    with pytest.raises(UserError, match=r"9 labels, and output 'logits' has 10 classes"):
        edgevit.load(path)


@pytest.mark.parametrize(
    ("task", "shapes", "counted"),
    [
        ("classification", {"logits": (1, 7)}, ("logits", 7)),
        ("classification", {"logits": (1, 7), "features": (1, 8, 4, 4)}, ("logits", 7)),
        ("classification", {"logits": (1, 7), "distilled": (1, 7)}, None),
        ("segmentation", {"masks": (1, 21, 32, 32)}, ("masks", 21)),
        ("detection", {"boxes": (1, 50, 4), "scores": (1, 50, 81)}, ("scores", 81)),
        ("detection", {"raw": (1, 84, 8400)}, None),
        ("classification", {"unknown": (1, -1)}, None),
        ("unknown", {"logits": (1, 7)}, None),
    ],
)
def test_class_count(task: str, shapes: dict[str, tuple[int, ...]], counted: tuple[str, int] | None) -> None:
    outputs = [TensorSpec(name, shape, "float32") for name, shape in shapes.items()]
    assert class_count(outputs, task) == counted


# What is reported


def test_a_stated_task_goes_before_the_guess() -> None:
    proto = small_proto()
    assert describe(from_proto(proto)).task == "unknown"  # two outputs
    attach(proto, Metadata(task="classification"))
    assert describe(from_proto(proto)).task == "classification"


def test_info_shows_what_the_model_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path, Metadata(task="classification", labels=NAMES))
    info(path, preprocess="mobilevit")
    shown = " ".join(capsys.readouterr().out.split())
    assert "task classification" in shown
    assert "labels 10: class 0, class 1, class 2, …" in shown
    assert "resize short side to 288 (bilinear), crop 256, BGR, scale 1/255" in shown
    assert "preprocessing from --preprocess mobilevit" in shown
    info(path, as_json=True)
    about = json.loads(capsys.readouterr().out)["about"]
    assert about["labels"] == list(NAMES)
    assert about["preprocessing"] is None


def test_sentences() -> None:
    exact = Preprocessing(channel_order="RGB", resize=(320, 300), scale=1.0, mean=(1, 2, 3), std=(2, 2, 2))
    assert exact.sentence() == "resize to 320x300 (bilinear), no crop, RGB, scale 1, mean 1 2 3, std 2"
    detection = Detection(anchors=(AnchorLevel(height=2, width=3, sizes=((0.1, 0.2), (0.3, 0.4))),))
    assert detection.sentence().startswith("12 anchors on 1 feature maps, scores from 0.01")


def test_a_toml_file_may_state_everything(tmp_path: Path) -> None:
    path = tmp_path / "full.toml"
    path.write_text(
        """
task = "detection"
labels = ["background", "cat"]

[preprocessing]
order = "BGR"
resize = [320, 320]
scale = "1/255"
mean = 0.5
std = [0.1, 0.2, "3/10"]

[detection]
background = 0
anchors = [{height = 1, width = 2, sizes = [[0.5, 0.25]]}]
"""
    )
    assert read_toml(path) == Metadata(
        task="detection",
        labels=("background", "cat"),
        preprocessing=Preprocessing(channel_order="BGR", resize=(320, 320), mean=(0.5, 0.5, 0.5), std=(0.1, 0.2, 0.3)),
        detection=Detection(anchors=(AnchorLevel(height=1, width=2, sizes=((0.5, 0.25),)),)),
    )
