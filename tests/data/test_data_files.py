"""Scenes written as data sets, read back by other tools than edgevit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from edgevit.cli.data import data
from edgevit.data import CLASSES, scene, write
from edgevit.errors import UserError

COUNT = 14


def _files(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_classes_are_folders_in_the_order_of_indices(tmp_path: Path) -> None:
    write(tmp_path / "set", "cls", "val", COUNT, size=(64, 96), seed=5)
    folders = sorted(entry for entry in (tmp_path / "set").iterdir())
    assert [folder.name for folder in folders] == [name.replace(" ", "_") for name in CLASSES]
    for index in range(COUNT):
        one = scene("cls", "val", index, size=(64, 96), seed=5)
        with Image.open(folders[one.label] / f"{index:06d}.png") as image:
            assert np.array_equal(np.asarray(image), one.image)
    assert len(_files(tmp_path / "set")) == COUNT


# pycocotools still speaks to NumPy as before version 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_files_mean_to_cocos_tools_what_they_should(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    write(tmp_path / "set", "det", "val", COUNT, size=96)
    coco = COCO(str(tmp_path / "set" / "instances.json"))
    assert [entry["name"] for entry in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert len(coco.getImgIds()) == COUNT
    found = []
    for index, entry in enumerate(coco.loadImgs(sorted(coco.getImgIds()))):
        one = scene("det", "val", index, size=96)
        with Image.open(tmp_path / "set" / "images" / entry["file_name"]) as image:
            assert np.array_equal(np.asarray(image), one.image)
        objects = coco.loadAnns(coco.getAnnIds(entry["id"]))
        assert len(objects) == len(one.boxes)
        for row, annotation in enumerate(objects):
            left, top, right, bottom = one.boxes[row].tolist()
            assert annotation["bbox"] == [left, top, right - left, bottom - top]
            assert annotation["category_id"] == one.classes[row] + 1
            assert np.array_equal(coco.annToMask(annotation), one.instances == row + 1)
            assert annotation["area"] == coco.annToMask(annotation).sum()
            found.append([entry["id"], *annotation["bbox"], 1.0, annotation["category_id"]])
    evaluation = COCOeval(coco, coco.loadRes(np.array(found)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)
    capsys.readouterr()


def test_masks_are_palette_images_in_vocs_colours(tmp_path: Path) -> None:
    write(tmp_path / "set", "seg", "test", COUNT, size=64)
    lines = (tmp_path / "set" / "classes.txt").read_text().splitlines()
    assert lines == ["background", *CLASSES]
    for index in range(COUNT):
        one = scene("seg", "test", index, size=64)
        with Image.open(tmp_path / "set" / "images" / f"{index:06d}.png") as image:
            assert np.array_equal(np.asarray(image), one.image)
        with Image.open(tmp_path / "set" / "masks" / f"{index:06d}.png") as mask:
            assert mask.mode == "P"
            assert np.array_equal(np.asarray(mask), one.mask)
            palette = mask.getpalette() or []
    # From VOC's development kit: background, aeroplane, bicycle, bird, … , bottle, … , chair.
    published = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 5: (128, 0, 128), 9: (192, 0, 0)}
    assert {index: tuple(palette[3 * index : 3 * index + 3]) for index in published} == published


@pytest.mark.parametrize("task", ["cls", "det", "seg"])
def test_twice_the_same_files(tmp_path: Path, task: Any) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, task, "train", 3, size=32)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


def test_an_interrupted_set_leaves_nothing(tmp_path: Path) -> None:
    shares: list[float] = []

    def stop(share: float) -> None:
        shares.append(share)
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "set", "cls", "val", 4, size=32, progress=stop)
    assert shares == [0.25, 0.5, 0.75]
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write(tmp_path / "set", "cls", "val", 1)
    assert _files(tmp_path) == {"set/mine.txt": b"mine"}


@pytest.mark.parametrize(("count", "size", "message"), [(0, 64, "0 scenes"), (-1, 64, "-1 scenes"), (1, 8, "8x8")])
def test_bad_requests_leave_nothing(tmp_path: Path, count: int, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write(tmp_path / "a" / "set", "cls", "val", count, size=size)
    assert list(tmp_path.iterdir()) == []


def _run(*arguments: str | Path) -> str:
    app = typer.Typer()
    app.command()(data)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception
    return result.stdout


def test_the_command_writes_what_the_function_writes(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "set"
    options = ["--task", "det", "--split", "test", "--count", "3", "--size", "48x64", "--seed", "9"]
    said = json.loads(_run(folder, *options, "--json"))
    write(tmp_path / "expected", "det", "test", 3, size=(48, 64), seed=9)
    assert _files(folder) == _files(tmp_path / "expected")
    assert said == {
        "folder": str(folder),
        "task": "det",
        "split": "test",
        "count": 3,
        "size": [48, 64],
        "seed": 9,
        "classes": list(CLASSES),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "pose"], "'pose' is no task"),
        (["--split", "x"], "'x' is no split"),
        (["--size", "big"], "'big' is no"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _run(tmp_path / "set", *options)
    assert list(tmp_path.iterdir()) == []
