"""Data sets, journals and names that are not what they should be: named, refused, shown harmlessly, not waited for."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgevit.accuracy.check_dataset import Request, check_dataset, plan_check
from edgevit.accuracy.dataset import open_class_folders
from edgevit.accuracy.dataset_coco import open_coco
from edgevit.accuracy.dataset_masks import open_masks
from edgevit.accuracy.images import read_image
from edgevit.accuracy.journal import Journal, has_lines
from edgevit.artifact import Artifact
from edgevit.cli.check import check
from edgevit.cli.output import print_error, print_json
from edgevit.device.session import Session
from edgevit.errors import UserError
from edgevit.model import Model
from edgevit.model.metadata_labels import read_labels

KEY = {"artifact": "a"}
HOSTILE = "\x1b]0;title\x07\x1b[31m\npassed: [bold]x\x9b.png"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures in folders of two classes."""
    for name, colour in (("red", "red"), ("green", "lime")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (40, 30), colour).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


# Files that are no files


def test_a_pipe_is_no_image_and_is_not_waited_for(
    classifier: tuple[Artifact, Model], in_process: Session, pictures: Path
) -> None:
    os.mkfifo(pictures / "red" / "pipe.png")
    (pictures / "red" / "gone.png").symlink_to(pictures / "nowhere.png")
    result = check_dataset(classifier[0], in_process, classifier[1], Request(pictures))
    reasons = {each.name: each.reason for each in result.run.unreadable}
    assert reasons.keys() == {"red/pipe.png", "red/gone.png"}
    assert "no regular file" in reasons["red/pipe.png"]
    assert result.run.images == 4


def test_pipes_elsewhere(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    readers: list[Callable[[Path], object]] = [
        read_image,
        read_labels,
        lambda path: open_coco(path, labels=None, classes=2, background=None),
    ]
    for read in readers:
        with pytest.raises(UserError, match="no regular file"):
            read(pipe)


def test_a_folder_that_cannot_be_read_is_not_left_out(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name == "red":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match="cannot read the data set: Permission denied"):
        open_class_folders(pictures, classes=4, labels=None)


def test_postscript_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "figure.jpg"
    Image.new("RGB", (20, 20), "red").save(path, format="EPS")
    with pytest.raises(UserError, match="no image that Pillow knows"):
        read_image(path)


def test_two_images_of_one_name_have_one_mask(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for name in ("a.png", "a.jpg", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    for name in ("a.png", "b.PNG"):
        Image.new("L", (8, 8)).save(tmp_path / "masks" / name, format="PNG")
    data = open_masks(tmp_path, classes=2, labels=None)
    assert len(data.samples) == 2
    assert "images of the same name as another but for its ending, left out: 1" in data.notes


@pytest.mark.parametrize(
    ("image", "annotation", "match"),
    [
        ({}, {"image_id": [1]}, None),
        ({}, {"category_id": {}}, None),
        ({}, {"bbox": [0, 0, 10**400, 1]}, "no box of four numbers"),
        ({"file_name": "a\0b.png"}, {}, "no file_name"),
    ],
)
def test_coco_entries(tmp_path: Path, image: dict[str, Any], annotation: dict[str, Any], match: str | None) -> None:
    path = tmp_path / "instances.json"
    one = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "area": 10**400, **annotation}
    content = {"images": [{"id": 1, "file_name": "a.png", **image}], "annotations": [one, {**one, "id": 2}]}
    path.write_text(json.dumps({**content, "categories": [{"id": 1, "name": "red"}]}))

    def read() -> Any:
        return open_coco(path, labels=["nothing", "red"], classes=2, background=0)

    if match is None:
        assert read().ignored == 2
        return
    with pytest.raises(UserError, match=match):
        read()


# Names


def test_names_that_move_the_cursor_are_shown_as_escapes(
    classifier: tuple[Artifact, Model], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "red" / HOSTILE).write_bytes(b"no image")
    (pictures / "red" / os.fsdecode(b"\xff.png")).write_bytes(b"no image")
    assert classifier[0].path
    check(classifier[0].path, reference=classifier[1].source, dataset=pictures, local=True, journal=tmp_path / "j")
    shown = capsys.readouterr().out
    assert not set("\x1b\x07\x9b") & set(shown)
    assert r"\x1b[31m\npassed: [bold]x\x9b.png" in shown
    assert r"\udcff.png" in shown
    check(classifier[0].path, reference=classifier[1].source, dataset=pictures, local=True, as_json=True)
    names = {entry["name"] for entry in json.loads(capsys.readouterr().out)["run"]["unreadable"]}
    assert f"red/{HOSTILE}" in names


def test_errors_and_json_show_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(UserError("first\nsecond \x1b[31m", where="\x1b[2J", advice="\x07[bold]"))
    shown = capsys.readouterr().err
    assert not set("\x1b\x07") & set(shown)
    assert r"\x1b[2J: first" in shown
    assert "[bold]" in shown
    print_json({"name": "\udcff"})
    assert json.loads(capsys.readouterr().out) == {"name": "\udcff"}


# Journals


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("content", [b"\x08\x07 a model", b"{}", b'{"edgevit": 1}\n'])
def test_a_file_that_is_no_journal_stays_as_it_is(tmp_path: Path, content: bytes, *, resume: bool) -> None:
    path = tmp_path / "precious"
    path.write_bytes(content)
    with pytest.raises(UserError, match="no journal"):
        Journal(path, KEY, resume=resume)
    assert path.read_bytes() == content


@pytest.mark.parametrize("key", ["", ',"key":[]', ',"key":"a"'])
def test_a_journals_head_that_is_damaged(tmp_path: Path, key: str) -> None:
    path = tmp_path / "journal"
    path.write_text(f'{{"edgevit check":1{key}}}\n')
    with pytest.raises(UserError, match="no journal of this version"):
        Journal(path, KEY, resume=True)


def test_a_line_that_is_nested_too_deeply_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, KEY, resume=False) as journal:
        journal.append({"record": {}})
    with path.open("ab") as stream:
        stream.write(b"[" * 100_000 + b"\n")
    with Journal(path, KEY, resume=True) as journal:
        assert len(journal.lines) == 1


@pytest.mark.parametrize("line", [{}, {"record": None}, {"record": {"reference": "x"}}, {"unreadable": 3}])
def test_records_that_are_damaged(
    classifier: tuple[Artifact, Model], in_process: Session, pictures: Path, tmp_path: Path, line: dict[str, Any]
) -> None:
    path = tmp_path / "journal"
    plan = plan_check(classifier[0], Request(pictures))
    with Journal(path, plan.key(in_process), resume=False) as journal:
        journal.append(line)
    with pytest.raises(UserError, match="record of image 0 is damaged"):
        plan.run(in_process, classifier[1], journal=path, resume=True)


def test_a_full_disk_is_said_and_closing_says_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    path = tmp_path / "journal"
    with Journal(path, KEY, resume=False) as journal:
        file = journal._file
        monkeypatch.setattr(journal, "_file", Full())
        with pytest.raises(UserError, match="cannot write: No space left on device"):
            journal.append({"record": {}})
        file.close()
    assert not has_lines(path)


def test_a_sheet_is_refused_before_the_run(
    classifier: tuple[Artifact, Model], in_process: Session, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="a contact sheet cannot be written there"):
        check_dataset(classifier[0], in_process, classifier[1], Request(pictures), sheet=tmp_path / "no" / "sheet.png")


def test_a_refused_journal_is_not_said_to_go_on_from(
    classifier: tuple[Artifact, Model], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "journal"
    with Journal(path, KEY, resume=False) as journal:
        journal.append({"record": {}})
    assert classifier[0].path
    with pytest.raises(UserError, match="of another check"):
        check(classifier[0].path, reference=classifier[1].source, dataset=pictures, journal=path, resume=True)
    assert "is noted" not in capsys.readouterr().err
    assert has_lines(path)
