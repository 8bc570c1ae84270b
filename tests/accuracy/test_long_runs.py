"""Long checks: killed and resumed, ahead of a slow device, in little memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgevit.accuracy import evaluate
from edgevit.accuracy.check_dataset import Request, check_dataset, plan_check
from edgevit.accuracy.journal import Journal, default_path
from edgevit.accuracy.prefetch import prefetch
from edgevit.artifact import Artifact
from edgevit.cli import output
from edgevit.cli.check import check
from edgevit.device.local import LocalModel
from edgevit.device.session import Session
from edgevit.errors import DeviceLost, UserError
from edgevit.model import Model
from tests.accuracy.tiny_models import COLOURS

KEY = {"artifact": "a", "data set": "d"}


# Working ahead


def test_results_come_in_order_and_within_bounds() -> None:
    begun, lock, most = set[int](), threading.Lock(), 0

    def work(number: int) -> int:
        with lock:
            begun.add(number)
        time.sleep(0.002 * (number % 3))
        return number * number

    results = []
    for result in prefetch(range(40), work, threads=3, ahead=5):
        with lock:
            most = max(most, len(begun) - len(results))
        results.append(result)
    assert results == [number * number for number in range(40)]
    assert 2 <= most <= 6


def test_a_reader_that_stops_is_followed_by_no_more_work() -> None:
    done = []
    ahead = prefetch(range(1000), done.append, threads=2, ahead=3)
    for _ in range(4):
        next(ahead)
    ahead.close()
    count = len(done)
    assert count <= 8
    assert threading.active_count() < 20
    time.sleep(0.02)
    assert len(done) == count


def test_an_error_comes_out_where_it_is_read() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    ahead = prefetch(range(9), work, threads=2, ahead=2)
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(ahead)


# The journal


def test_what_was_noted_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "journal.jsonl"
    with Journal(path, KEY, resume=True) as journal:
        assert journal.lines == []
        for number in range(3):
            journal.append({"record": number})
    with Journal(path, KEY, resume=True) as journal:
        assert journal.lines == [{"record": number} for number in range(3)]
        journal.append({"unreadable": "bad\nnews"})
    with Journal(path, KEY, resume=True) as journal:
        assert journal.lines[3] == {"unreadable": "bad\nnews"}
    with Journal(path, KEY, resume=False) as journal:
        assert journal.lines == []
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "torn", [b'{"image":2,"rec', b'{"image":2}', b"\x00\x00\n", b'{"image":7,"record":0}\n', b"[]\n"]
)
def test_a_torn_end_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, KEY, resume=False) as journal:
        journal.append({"record": 0})
        journal.append({"record": 1})
    with path.open("ab") as file:
        file.write(torn)
    with Journal(path, KEY, resume=True) as journal:
        assert len(journal.lines) == 2
        journal.append({"record": 2})
    assert [json.loads(line).get("image") for line in path.read_text().splitlines()] == [None, 0, 1, 2]


@pytest.mark.parametrize("head", [b"", b'{"edgevit ch'])
def test_a_kill_before_the_first_line(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(head)
    with Journal(path, KEY, resume=True) as journal:
        journal.append({"record": 0})
    with Journal(path, KEY, resume=True) as journal:
        assert journal.lines == [{"record": 0}]


def test_another_checks_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, KEY, resume=False).close()
    with pytest.raises(UserError, match=r"of another check: data set differ\."):
        Journal(path, {**KEY, "data set": "e"}, resume=True)
    (tmp_path / "text").write_text("something of the user's\n")
    with pytest.raises(UserError, match="another file of that name, which is no journal"):
        Journal(tmp_path / "text", KEY, resume=True)


def test_two_checks_do_not_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, KEY, resume=False) as journal:
        journal.append({"record": 0})
        with pytest.raises(UserError, match="another check is writing"):
            Journal(path, KEY, resume=False)
        journal.append({"record": 1})
    with Journal(path, KEY, resume=True) as journal:
        assert len(journal.lines) == 2


# The whole of it


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colours, some of them in a wrong folder, and a picture that cannot be read."""
    root = tmp_path_factory.mktemp("pictures")
    for index, name in enumerate(COLOURS):
        (root / name).mkdir()
        for number in range(80):
            colour = list(COLOURS.values())[(index + (number % 7 == 0)) % 3]
            Image.new("RGB", (30, 20), colour).save(root / name / f"{number:03}.png")
    (root / "red" / "010.png").write_bytes(b"")
    return root


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts the runs on the device; of the 100th on, none answers."""
    calls: list[int] = []
    right = LocalModel.run

    def run(self: LocalModel, *args: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if len(calls) > 100:
            raise DeviceLost("gone.")
        return right(self, *args, **options)

    monkeypatch.setattr(LocalModel, "run", run)
    yield calls
    monkeypatch.setattr(LocalModel, "run", right)


def test_a_check_whose_device_went_away_is_resumed(
    classifier: tuple[Artifact, Model], in_process: Session, pictures: Path, tmp_path: Path, slow: list[int]
) -> None:
    artifact, model = classifier
    journal = tmp_path / "journal.jsonl"
    with pytest.raises(DeviceLost):
        check_dataset(artifact, in_process, model, Request(pictures), journal=journal)
    slow.clear()
    slow += [0] * -200  # count again from here
    counts: list[tuple[int, int]] = []
    with pytest.raises(DeviceLost):
        check_dataset(
            artifact,
            in_process,
            model,
            Request(pictures),
            journal=journal,
            resume=True,
            progress=lambda done, total: counts.append((done, total)),
        )
    assert counts[0][0] >= 100
    slow.clear()
    resumed = check_dataset(artifact, in_process, model, Request(pictures), journal=journal, resume=True)
    assert resumed.run.resumed >= 200
    slow.clear()
    again = check_dataset(artifact, in_process, model, Request(pictures), journal=journal, resume=True)
    assert slow == []
    assert again.run.device_rate.images_per_second is None
    assert again.scores == resumed.scores
    assert resumed.run.images == 239
    assert [image.name for image in resumed.run.unreadable] == ["red/010.png"]


def test_the_command_says_how_to_go_on(
    classifier: tuple[Artifact, Model],
    pictures: Path,
    tmp_path: Path,
    slow: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path))
    artifact, model = classifier
    assert artifact.path
    with pytest.raises(DeviceLost):
        check(artifact.path, reference=model.source, dataset=pictures, local=True)
    assert "with --resume goes on from there" in capsys.readouterr().err
    assert len(list((tmp_path / "checks").iterdir())) == 1
    slow.clear()
    with pytest.raises(DeviceLost):
        check(artifact.path, reference=model.source, dataset=pictures, local=True, resume=True)
    slow.clear()
    check(artifact.path, reference=model.source, dataset=pictures, local=True, resume=True)
    shown = capsys.readouterr().out
    assert "images: 239 of 240 in 3 classes" in shown
    assert "of them by an earlier run" in shown
    assert list((tmp_path / "checks").iterdir()) == []


def test_the_next_image_is_prepared_while_the_device_works(
    classifier: tuple[Artifact, Model], in_process: Session, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = threading.Semaphore(0)
    right, run = evaluate.prepare, LocalModel.run

    def prepare(*args: Any) -> Any:
        prepared.release()
        return right(*args)

    def slow_run(self: LocalModel, *args: Any, **options: Any) -> Any:
        # Its own image, and the next one: that must come while this call lasts.
        assert prepared.acquire(timeout=30)
        assert prepared.acquire(timeout=30)
        prepared.release()
        return run(self, *args, **options)

    monkeypatch.setattr(evaluate, "prepare", prepare)
    monkeypatch.setattr(LocalModel, "run", slow_run)
    artifact, model = classifier
    # There is no image after the last one.
    prepared.release()
    assert check_dataset(artifact, in_process, model, Request(pictures, limit=20)).run.images == 20


def test_where_nobody_watches_a_line_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "_SAY_SECONDS", 0.0)
    with output.steps() as shown:
        shown.stage("check")
        shown.count(1200, 5000)
        time.sleep(0.01)
        shown.count(1201, 5000)
    assert "check 1,201 of 5,000" in capsys.readouterr().err


def test_a_smaller_limit_reads_only_its_part(
    classifier: tuple[Artifact, Model], in_process: Session, pictures: Path, tmp_path: Path
) -> None:
    artifact, model = classifier
    journal = tmp_path / "journal.jsonl"
    first = check_dataset(artifact, in_process, model, Request(pictures, limit=30), journal=journal)
    more = check_dataset(artifact, in_process, model, Request(pictures, limit=50), journal=journal, resume=True)
    less = check_dataset(artifact, in_process, model, Request(pictures, limit=30), journal=journal, resume=True)
    assert (more.run.resumed, less.run.resumed) == (30, 30)
    assert less.scores == first.scores
    assert len(journal.read_text().splitlines()) == 51


def test_the_key_changes_with_what_the_scores_depend_on(
    classifier: tuple[Artifact, Model], in_process: Session, pictures: Path
) -> None:
    artifact, _ = classifier
    key = plan_check(artifact, Request(pictures)).key(in_process)
    assert plan_check(artifact, Request(pictures, limit=3)).key(in_process) == key
    other = plan_check(artifact, Request(pictures, preprocess="resize=32x32,order=BGR")).key(in_process)
    assert {name for name in key if key[name] != other[name]} == {"preprocessing"}
    changed = pictures / "red" / "001.png"
    content, facts = changed.read_bytes(), changed.stat()
    try:
        changed.write_bytes(content + b"\0")
        touched = plan_check(artifact, Request(pictures)).key(in_process)
        assert {name for name in key if key[name] != touched[name]} == {"data set"}
    finally:
        changed.write_bytes(content)
        os.utime(changed, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert plan_check(artifact, Request(pictures)).key(in_process) == key
    assert default_path(key) != default_path(other)


_SCRIPT = """
import time
from edgevit.cli.main import run
from edgevit.device.local import LocalModel
right = LocalModel.run
def slow(self, *args, **options):
    time.sleep(0.01)
    return right(self, *args, **options)
LocalModel.run = slow
run()
"""


def test_killed_half_way_and_resumed_gives_the_same_result(
    classifier: tuple[Artifact, Model], pictures: Path, tmp_path: Path
) -> None:
    artifact, _ = classifier
    journal = tmp_path / "journal.jsonl"
    options = ["--dataset", str(pictures), "--local", "--json", "--floor", "0.5"]
    command = [sys.executable, "-c", _SCRIPT, "check", str(artifact.path), *options]
    environment = {**os.environ, "EDGEVIT_CACHE_DIR": str(tmp_path / "cache")}

    def lines() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    killed = subprocess.Popen([*command, "--journal", str(journal)], env=environment, stdout=subprocess.PIPE)
    while killed.poll() is None and lines() < 100:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.communicate()[0] == b""
    assert killed.returncode == -signal.SIGKILL
    done = lines() - 1
    assert 99 <= done < 240
    resumed = subprocess.run(
        [*command, "--journal", str(journal), "--resume"], env=environment, capture_output=True, check=True
    )
    whole = subprocess.run(command, env=environment, capture_output=True, check=True)
    after, straight = json.loads(resumed.stdout), json.loads(whole.stdout)
    assert after["run"]["resumed"] == done
    assert straight["run"]["resumed"] == 0
    assert after["run"]["images"] == straight["run"]["images"] == 239
    assert after["run"]["unreadable"] == straight["run"]["unreadable"]
    assert after["scores"] == straight["scores"]
    assert [json.loads(line).get("image") for line in journal.read_text().splitlines()] == [None, *range(240)]
    # That of the whole run was in the cache, and has gone.
    assert list((tmp_path / "cache" / "checks").iterdir()) == []


def test_memory_stays_flat(
    classifier: tuple[Artifact, Model], in_process: Session, pictures: Path, tmp_path: Path
) -> None:
    """Ten times as many images take no more room than their records do."""
    artifact, model = classifier

    def peak(limit: int) -> int:
        tracemalloc.start()
        check_dataset(artifact, in_process, model, Request(pictures, limit=limit))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(24)
    assert peak(240) < peak(24) + 300_000
