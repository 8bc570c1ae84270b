"""A planted regression is caught by the floor and by McNemar's test; an identical artifact by neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgevit
from edgevit.accuracy.check_dataset import Request, check_dataset
from edgevit.accuracy.classification import ClassificationScores
from edgevit.accuracy.contact_sheet import Tile, write_sheet
from edgevit.accuracy.floors import FLOORS, Verdict
from edgevit.accuracy.metric import Score
from edgevit.accuracy.significance import McNemar
from edgevit.artifact import Artifact
from edgevit.cli.check import check
from edgevit.compiler import rewrite
from edgevit.compiler.compile import compile_model
from edgevit.device.session import Session
from edgevit.errors import CheckFailed, UserError
from edgevit.model import Model, load
from edgevit.model.metadata import attach
from tests.accuracy.tiny_models import LABELS, about, broken, classifier_proto
from tests.faults import stretch_softmax

IMAGES = 50
"""Of each class."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colours between the classes', one in five of them in the folder of another."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(11)
    for index, name in enumerate(LABELS):
        (root / name).mkdir()
        for number in range(IMAGES):
            kind = index if generator.random() < 0.8 else int(generator.integers(0, 4))
            colour = generator.uniform(0, 110, 3)
            if kind:
                colour[kind - 1] = generator.uniform(145, 255)
            Image.new("RGB", (40, 30), tuple(colour.astype(int).tolist())).save(root / name / f"{number:03}.png")
    return root


@pytest.fixture(scope="module")
def worse(classifier: tuple[Artifact, Model], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same classifier with weights that are a little off."""
    return broken(classifier_proto(noise=2.0), classifier[0], tmp_path_factory.mktemp("worse") / "worse.edgevit")


def test_an_identical_artifact_passes(
    classifier: tuple[Artifact, Model], in_process: Session, pictures: Path, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.png"
    result = check_dataset(classifier[0], in_process, classifier[1], Request(pictures), sheet=sheet)
    assert isinstance(result.scores, ClassificationScores)
    assert result.verdict.passed
    assert 0.7 < result.scores.reference.top1.value < 0.95
    assert result.scores.difference == McNemar(reference_only=0, artifact_only=0, p_value=1.0)
    assert all(each.difference == 0 for each in result.scores.classes)
    with Image.open(sheet) as image:
        assert image.size[0] < 250  # one tile that says there are none


def test_a_broken_one_is_caught_by_the_floor_and_by_mcnemar(
    classifier: tuple[Artifact, Model], worse: Artifact, in_process: Session, pictures: Path, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.png"
    result = check_dataset(worse, in_process, classifier[1], Request(pictures), sheet=sheet)
    scores = result.scores
    assert isinstance(scores, ClassificationScores)
    assert "of the reference's" in result.verdict.failures[0]
    assert scores.difference.p_value < 0.01
    assert scores.difference.reference_only > scores.difference.artifact_only
    lost = scores.difference.reference_only - scores.difference.artifact_only
    assert scores.reference.top1.count - scores.artifact.top1.count == lost
    assert min(each.difference for each in scores.classes) < 0
    with Image.open(sheet) as image:
        assert image.format == "PNG"
        assert image.width > 1000


def test_the_command_exits_with_1_below_the_floor(
    classifier: tuple[Artifact, Model],
    worse: Artifact,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path))
    assert worse.path
    source = classifier[1].source
    with pytest.raises(
        CheckFailed, match=r"top-1 is 0\.\d+, \d+\.\d% of the reference's 0\.\d+, under the floor of 98"
    ):
        check(worse.path, reference=source, dataset=pictures, local=True, contact_sheet=tmp_path / "sheet.png")
    shown = capsys.readouterr().out
    assert "McNemar's exact test: p = " in shown
    assert "passed" not in shown
    assert (tmp_path / "sheet.png").is_file()
    assert list((tmp_path / "checks").iterdir()) == []
    check(worse.path, reference=source, dataset=pictures, local=True, floor=0.1)
    assert "floor 10.0%" in capsys.readouterr().out


def test_a_fault_of_the_compiler_costs_nothing_here_and_is_seen_by_the_plain_check(
    tmp_path: Path, in_process: Session, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A softmax that sums to 1.02 ranks as before: accuracy does not replace the comparison of outputs."""
    import onnx

    proto = classifier_proto()
    proto.graph.node[-1].output[0] = "sums"
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["sums"], ["logits"], axis=-1))
    attach(proto, about("classification"))
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    model = load(path)
    monkeypatch.setattr(rewrite, "REWRITES", (*rewrite.REWRITES, rewrite.Rewrite("fault", stretch_softmax)))
    artifact = compile_model(model, "host", verify=False)
    assert check_dataset(artifact, in_process, model, Request(pictures, limit=40)).verdict.passed
    assert not edgevit.check(artifact, in_process, model).passed


# Figures


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 1), (12, 30), (8, 8)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    """Twice the tail of fair coins, at most 1."""
    total = first + second
    tail = sum(comb(total, k) for k in range(min(first, second) + 1)) / 2**total
    assert McNemar.test(first, second).p_value == pytest.approx(min(1.0, 2 * tail))


@pytest.mark.parametrize(
    ("artifact", "floor", "least", "failures"),
    [
        (0.98, 0.98, None, []),
        (0.97, 0.98, None, ["97.0% of the reference's 1.0000, under the floor of 98.0%"]),
        (0.97, 0.96, 0.98, ["under the floor of 0.98"]),
        (0.5, 0.98, 0.6, ["under the floor of 98.0%", "under the floor of 0.6"]),
        (1.0, 0.98, 0.6, []),
    ],
)
def test_floors(artifact: float, floor: float, least: float | None, failures: Sequence[str]) -> None:
    verdict = Verdict.judge(Score(name="top-1", reference=1.0, artifact=artifact), floor=floor, least=least)
    assert len(verdict.failures) == len(failures)
    assert all(part in failure for part, failure in zip(failures, verdict.failures, strict=True))
    assert verdict.passed == (not failures)


def test_a_reference_that_scores_nothing_demands_nothing() -> None:
    assert Verdict.judge(Score(name="mAP", reference=0.0, artifact=0.0), floor=FLOORS["detection"]).passed


def test_a_sheet_that_cannot_be_written(tmp_path: Path) -> None:
    tile = Tile(
        Image.new("RGB", (900, 20), "red"), ("a name that is far too long for the picture above it " * 3, "日本")
    )
    write_sheet([tile] * 7, tmp_path / "sheet.png")
    with pytest.raises(UserError, match="cannot write"):
        write_sheet([tile], tmp_path / "missing" / "sheet.png")


# Pictures of all kinds


def test_pictures_of_all_kinds(classifier: tuple[Artifact, Model], in_process: Session, tmp_path: Path) -> None:
    """Grey, CMYK, 16 bits and a large one are taken; cut, damaged and boundless ones are named."""
    red, black = tmp_path / "data" / "red", tmp_path / "data" / "background"
    red.mkdir(parents=True)
    black.mkdir()
    Image.new("CMYK", (40, 30), (0, 255, 255, 0)).save(red / "cmyk.jpg")
    Image.new("RGB", (5000, 4000), (255, 0, 0)).save(red / "large.png")
    Image.new("P", (40, 30)).save(black / "palette.png")
    Image.new("L", (40, 30), 20).save(black / "grey.png")
    Image.fromarray(np.full((30, 40), 5000, np.uint16)).save(black / "sixteen.png")
    Image.new("RGB", (12_000, 12_000)).save(black / "huge.png")
    Image.effect_noise((64, 64), 50).save(red / "whole.jpg")
    (red / "cut.jpg").write_bytes((red / "whole.jpg").read_bytes()[:-200])
    (red / "whole.jpg").unlink()
    (red / "text.png").write_text("no picture")
    Image.new("F", (40, 30)).save(red / "float.tif")
    result = check_dataset(classifier[0], in_process, classifier[1], Request(tmp_path / "data"))
    assert isinstance(result.scores, ClassificationScores)
    assert result.scores.artifact.top1.count == result.scores.reference.top1.count == result.run.images == 5
    reasons = {image.name: image.reason for image in result.run.unreadable}
    assert set(reasons) == {"background/huge.png", "red/cut.jpg", "red/text.png", "red/float.tif"}
    assert "decompression bomb" in reasons["background/huge.png"]
    assert "truncated" in reasons["red/cut.jpg"]
    assert "no image that Pillow knows" in reasons["red/text.png"]


def test_a_folder_of_no_class_and_a_class_without_a_folder(
    classifier: tuple[Artifact, Model], in_process: Session, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "red"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    artifact, model = classifier
    result = check_dataset(artifact, in_process, model, Request(tmp_path / "data"))
    assert result.classes == 1
    (tmp_path / "data" / "mauve").mkdir()
    with pytest.raises(UserError, match="'mauve': no label or class index of the model"):
        check_dataset(artifact, in_process, model, Request(tmp_path / "data"))
    silent = replace(
        artifact,
        manifest=artifact.manifest.model_copy(
            update={"metadata": about("classification").model_copy(update={"labels": None})}
        ),
    )
    with pytest.raises(UserError, match="whose labels are not known"):
        check_dataset(silent, in_process, model, Request(tmp_path / "data"))
