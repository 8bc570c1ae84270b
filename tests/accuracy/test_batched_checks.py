"""Checks whose images go to the device in batches: the same results, fewer waits, and nothing lost or counted twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import edgevit
from edgevit.accuracy import batch_size, evaluate
from edgevit.accuracy.batch_size import BATCH_SECONDS, BatchSize
from edgevit.accuracy.check_dataset import DatasetResult, Request, check_dataset
from edgevit.accuracy.journal import Journal
from edgevit.artifact import Artifact
from edgevit.device.rpc import RpcModel
from edgevit.device.session import Session
from edgevit.errors import DeviceLost, ToolchainError
from edgevit.model import Model
from tests.accuracy.tiny_models import COLOURS
from tests.conftest import missing
from tests.device.processes import own
from tests.device.turns import slow_line

IMAGES = 180
BAD = ("blue/020.png", "green/019.png", "red/019.png")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty of each colour, some of them in a wrong folder; three in a row cannot be read."""
    root = tmp_path_factory.mktemp("pictures")
    for index, name in enumerate(COLOURS):
        (root / name).mkdir()
        for number in range(IMAGES // 3):
            colour = list(COLOURS.values())[(index + (number % 7 == 0)) % 3]
            Image.new("RGB", (30, 20), colour).save(root / name / f"{number:03}.png")
    for name in BAD:
        (root / name).write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """A process of its own, which runs batches."""
    with edgevit.connect() as opened:
        yield opened


@pytest.fixture(scope="module")
def straight(classifier: tuple[Artifact, Model], in_process: Session, pictures: Path) -> DatasetResult:
    """One image after the other."""
    artifact, model = classifier
    return check_dataset(artifact, in_process, model, Request(pictures))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is, batches grow."""
    monkeypatch.setattr(batch_size, "BATCH_SECONDS", 1000.0)


def assert_same_result(got: DatasetResult, wanted: DatasetResult) -> None:
    assert got.scores == wanted.scores
    assert got.run.images == wanted.run.images == IMAGES - len(BAD)
    assert got.run.unreadable == wanted.run.unreadable
    assert sorted(image.name for image in got.run.unreadable) == sorted(BAD)


# How large batches are


@pytest.mark.usefixtures("patient")
def test_batches_grow_to_the_most_and_no_further() -> None:
    size, sizes = BatchSize(40), []
    for _ in range(9):
        sizes.append(size.now)
        size.took(size.now, 0.001 * size.now)
    assert sizes == [1, 2, 4, 8, 16, 32, 40, 40, 40]
    assert size.largest == 40
    assert BatchSize(10**9)._most == batch_size.BATCH_IMAGES


def test_a_batch_takes_about_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "BATCH_SECONDS", BATCH_SECONDS)
    size = BatchSize(10**9)
    for _ in range(8):
        size.took(size.now, 0.04 + 0.1 * size.now)
    assert size.now == 9
    # A moment's trouble: smaller, then as before.
    size.took(9, 20.0)
    assert size.now == 1
    for _ in range(8):
        size.took(size.now, 0.04 + 0.1 * size.now)
    assert (size.now, size.largest) == (9, 9)
    slow = BatchSize(64)
    for _ in range(3):
        slow.took(1, 7.0)
        assert slow.now == 1


def test_where_batches_gain_nothing_there_are_none(straight: DatasetResult) -> None:
    assert straight.run.batch == 1


# The whole of it


def test_batches_change_no_result(
    classifier: tuple[Artifact, Model],
    session: Session,
    pictures: Path,
    straight: DatasetResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    artifact, model = classifier
    appended: list[int] = []
    append = Journal.append

    def counted(self: Journal, *lines: Any) -> None:
        appended.append(len(lines))
        append(self, *lines)

    monkeypatch.setattr(Journal, "append", counted)
    counts: list[tuple[int, int]] = []
    result = check_dataset(
        artifact,
        session,
        model,
        Request(pictures),
        journal=tmp_path / "journal.jsonl",
        progress=lambda done, total: counts.append((done, total)),
    )
    assert_same_result(result, straight)
    assert result.run.batch == 64
    # A batch's lines come together; bad images among them go to no device, but keep their places.
    assert appended == [1, 2, 4, 8, 16, 32, 64, IMAGES - 127]
    assert counts == [(done, IMAGES) for done in range(IMAGES + 1)]


def test_no_more_is_held_than_two_batches(
    classifier: tuple[Artifact, Model], session: Session, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size, "BATCH_IMAGES", 8)
    artifact, model = classifier
    lock, looked, done, most = threading.Lock(), 0, 0, 0
    read_image, run_batch = evaluate.read_image, RpcModel.run_batch

    def look(path: Path) -> Any:
        nonlocal looked, most
        with lock:
            looked += 1
            most = max(most, looked - done)
        return read_image(path)

    def run(self: RpcModel, batch: Sequence[Any], **options: Any) -> Any:
        # While this batch of eight is on its way, those of the next are prepared.
        deadline = time.monotonic() + 60
        while done >= 7 and looked < min(done + 16, IMAGES):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return run_batch(self, batch, **options)

    def progress(now: int, _: int) -> None:
        nonlocal done
        done = now

    monkeypatch.setattr(evaluate, "read_image", look)
    monkeypatch.setattr(RpcModel, "run_batch", run)
    assert check_dataset(artifact, session, model, Request(pictures), progress=progress).run.batch == 8
    assert most <= 2 * 8 + evaluate._MOST_THREADS


def test_a_device_that_goes_in_the_middle_of_a_batch(
    classifier: tuple[Artifact, Model],
    session: Session,
    pictures: Path,
    straight: DatasetResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    artifact, model = classifier
    journal, right = tmp_path / "journal.jsonl", RpcModel.run_batch
    sent: list[int] = []

    def lost(self: RpcModel, batch: Sequence[Any], **options: Any) -> Any:
        sent.append(len(batch))
        if len(sent) == 6:
            right(self, batch[:3], **options)
            raise DeviceLost("gone.")
        return right(self, batch, **options)

    monkeypatch.setattr(RpcModel, "run_batch", lost)
    with pytest.raises(DeviceLost):
        check_dataset(artifact, session, model, Request(pictures), journal=journal)
    assert sent == [1, 2, 4, 8, 16, 32 - len(BAD)]
    lines = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert [line["image"] for line in lines] == list(range(31))
    monkeypatch.setattr(RpcModel, "run_batch", right)
    resumed = check_dataset(artifact, session, model, Request(pictures), journal=journal, resume=True)
    assert resumed.run.resumed == 31
    assert_same_result(resumed, straight)
    lines = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert [line["image"] for line in lines] == list(range(IMAGES))


_SCRIPT = """
import time
from edgevit.accuracy import batch_size
from edgevit.cli.main import run
from edgevit.device.rpc import RpcModel
batch_size.BATCH_SECONDS = 1000
right = RpcModel.run_batch
def slow(self, batch, **options):
    answers = right(self, batch, **options)
    time.sleep(0.02 * len(batch))
    return answers
RpcModel.run_batch = slow
run()
"""


def test_killed_in_the_middle_of_a_batch_and_resumed(
    classifier: tuple[Artifact, Model], pictures: Path, straight: DatasetResult, tmp_path: Path
) -> None:
    artifact, _ = classifier
    journal = tmp_path / "journal.jsonl"
    options = ["--dataset", str(pictures), "--json", "--floor", "0.5", "--journal", str(journal)]
    command = [sys.executable, "-c", _SCRIPT, "check", str(artifact.path), *options]
    environment = {**os.environ, "EDGEVIT_CACHE_DIR": str(tmp_path / "cache")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as killed:
        while killed.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 32):
            time.sleep(0.005)
        # 31 are done; of the next 32, which take more than half a second, nothing may be noted.
        killed.send_signal(signal.SIGKILL)
        assert killed.communicate()[0] == b""
    done = journal.read_bytes().count(b"\n") - 1
    assert done in (31, 63, 127)  # whole batches, however slow this machine is
    resumed = subprocess.run([*command, "--resume"], env=environment, capture_output=True, check=True)
    said = json.loads(resumed.stdout)
    assert said["run"]["resumed"] == done
    assert said["run"]["batch"] > 1
    wanted = json.loads(straight.model_dump_json())
    assert said["scores"] == wanted["scores"]
    assert said["run"]["unreadable"] == wanted["run"]["unreadable"]
    lines = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert [line["image"] for line in lines] == list(range(IMAGES))


def test_far_away_a_check_waits_for_few_answers(
    classifier: tuple[Artifact, Model], pictures: Path, straight: DatasetResult
) -> None:
    from edgevit.device.server_build import build_server
    from edgevit.targets import get_target

    try:
        binary = str(build_server(get_target("host").triple))
    except ToolchainError as error:
        missing(f"the C++ server cannot be built here: {error}")
    artifact, model = classifier
    with own(binary) as (_, port), slow_line(port, 0.01) as line:
        with edgevit.connect(rpc=f"127.0.0.1:{line.port}") as far:
            result = check_dataset(artifact, far, model, Request(pictures))
        turns = line.turns
    assert_same_result(result, straight)
    assert result.run.batch == 64
    # Eight batches; the rest is for connecting and loading.
    assert turns < IMAGES / 3


def test_the_summary_says_how_large_batches_were(
    classifier: tuple[Artifact, Model], session: Session, pictures: Path, straight: DatasetResult
) -> None:
    from edgevit.report.dataset_table import dataset_lines

    artifact, model = classifier
    result = check_dataset(artifact, session, model, Request(pictures, limit=10))
    assert result.run.batch == 4
    assert " (batches of up to 4), judging" in "\n".join(dataset_lines(result))
    assert "batches" not in "\n".join(dataset_lines(straight))
