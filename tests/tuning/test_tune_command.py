"""``edgevit tune``: what it prints, what it writes, and what it says of mistakes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
from onnx import TensorProto, helper

from edgevit.cli.main import run
from edgevit.tuning.places import find_places
from edgevit.tuning.reading import Rejected, read_records
from edgevit.tuning.record import KernelRecord
from edgevit.tuning.records import choice_key
from edgevit.tuning.search import Tuner
from edgevit.tuning.writing import LogWriter
from tests.device.processes import free_port, listener, stock, wait_until
from tests.models import small_proto
from tests.tuning.calm_command import calm, start
from tests.tuning.making import failed, measured

ELSEWHERE = "rpi4" if sys.platform == "darwin" else "apple-silicon"
"""A target that this machine is not."""
QUICK = ("--threads", "1", "--batch", "3")


class Said(NamedTuple):
    out: str
    err: str

    @property
    def words(self) -> str:
        """Of an error, however it was folded."""
        return " ".join(self.err.split())


Command = Callable[..., Said]


pytestmark = pytest.mark.usefixtures("mark")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run: ``small.onnx`` lies there, and records go to ``user``."""
    path = tmp_path / "here"
    path.mkdir()
    onnx.save(small_proto(), path / "small.onnx")
    monkeypatch.setenv("EDGEVIT_TUNING_DIR", str(path / "user"))
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def edgevit(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """The command line in this process; its devices and builders have processes of their own all the same."""
    calm(monkeypatch.setattr)
    before = signal.getsignal(signal.SIGTERM)

    def command(*arguments: str, code: int = 0) -> Said:
        monkeypatch.setattr(sys, "argv", ["edgevit", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        said = Said(*capfd.readouterr())
        assert (ended.value.code or 0) == code, said.err + said.out
        return said

    yield command
    signal.signal(signal.SIGTERM, before)


def tried(log: Path) -> Counter[tuple[str, Any]]:
    """How many records each choice of each kernel has."""
    return Counter((record.workload, choice_key(record.choice)) for record in read_records(log))  # type: ignore[union-attr]


def test_from_a_model_to_an_artifact(folder: Path, edgevit: Command) -> None:
    log = folder / "user" / "host" / "records.jsonl"
    said = edgevit("tune", "small.onnx", "--trials", "5", *QUICK, "--plot", "x.svg")
    assert "5 trials" in said.out
    assert f"records: {log}" in said.out
    assert "go on with: edgevit tune small.onnx --trials 5 --threads 1 --batch 3 --plot x.svg" in said.out
    assert ElementTree.parse(folder / "x.svg").getroot().tag.endswith("svg")
    first = tried(log)
    assert len(first) == 5
    assert max(first.values()) <= 2  # the best twice

    picture = (folder / "x.svg").read_bytes()
    again = edgevit("tune", "small.onnx", "--trials", "4", *QUICK, "--plot", "x.svg", "--json", "--workers", "2")
    found = json.loads(again.out)
    assert (found["reason"], found["trials"], found["measured"]) == ("trials", 4, 4)
    assert found["log"] == str(log)
    assert shlex.split(found["resume"])[:3] == ["edgevit", "tune", "small.onnx"]
    assert sum(task["trials"] for task in found["tasks"]) == 4
    assert 0 < found["models"]["small"]["after_seconds"] <= found["models"]["small"]["before_seconds"]
    assert (folder / "x.svg").read_bytes() != picture
    both = tried(log)
    assert len(both) == 9  # others than before
    assert all(both[key] == first[key] for key in first)

    artifact = json.loads(edgevit("compile", "small.onnx", "-t", "host", "--json").out)
    kernels = artifact["resolutions"][0]["program"]
    tuned = {kernel["workload"] for kernel in kernels if kernel["evidence"]}
    assert tuned == {workload for workload, _ in both}
    assert artifact["resolutions"][0]["check"]["status"] == "passed"


def test_measuring_anew(folder: Path, edgevit: Command) -> None:
    for _ in range(2):
        said = edgevit("tune", "small.onnx", "--trials", "3", *QUICK, "--no-resume", "--tuning-log", "logs", "--json")
        assert "--no-resume" not in json.loads(said.out)["resume"]
    counts = tried(folder / "logs" / "host" / "records.jsonl")
    assert len(counts) == 3
    assert min(counts.values()) >= 2


def test_several_models_and_sizes(folder: Path, edgevit: Command) -> None:
    onnx.save(small_proto(seed=1), folder / "other.onnx")
    found = json.loads(edgevit("tune", "small.onnx", "other.onnx", "--trials", "2", *QUICK, "--json").out)
    assert set(found["models"]) == {"small", "other"}
    assert all(task["calls"] == 2 for task in found["tasks"])  # weights make no difference


def test_time_that_is_over_ends_it(folder: Path, edgevit: Command) -> None:
    """Loading and connecting took all of it."""
    found = json.loads(edgevit("tune", "small.onnx", "--minutes", "0.0001", *QUICK, "--json").out)
    assert found["reason"] == "minutes"
    text = edgevit("tune", "small.onnx", "--minutes", "0.0001", *QUICK).out
    assert "go on with: edgevit tune small.onnx --minutes 0.0001" in text


def test_what_is_tried_whole_is_done(folder: Path, edgevit: Command) -> None:
    one = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"])],
        "shares",
        [one("x", TensorProto.FLOAT, (4, 8))],
        [one("y", TensorProto.FLOAT, (4, 8))],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "shares.onnx")
    found = json.loads(edgevit("tune", "shares.onnx", "--minutes", "20", "--json").out)
    assert found["reason"] == "exhausted"
    assert {task["state"] for task in found["tasks"]} == {"done"}
    text = edgevit("tune", "shares.onnx", "--minutes", "20").out
    assert "go on with" not in text
    assert "0 trials" in text


def test_looking_after_records(folder: Path, edgevit: Command) -> None:
    for name, rows in (("a", (1, 2, 3, 4, 5)), ("b", (4, 5, 6))):
        with LogWriter(folder / name / "records.jsonl") as log:
            for record in (*(measured({"rows": row}, row * 1e-3) for row in rows), failed({"rows": 9})):
                log.append(record)
    user = folder / "user" / "host" / "records.jsonl"
    said = edgevit("tune", "--merge", "a", "b/records.jsonl")
    assert "7 records added" in said.out
    assert "3 were there before" in said.out
    assert len(list(read_records(user))) == 7
    counts = json.loads(edgevit("tune", "--status", "--json").out)["holdings"][0]["counts"]
    assert (counts["measured"], counts["failure"]) == (6, 1)
    assert "rpi4" in edgevit("tune", "--status").out
    assert "records in all.jsonl" in edgevit("tune", "--export", "all.jsonl").out
    exported = [record for record in read_records(folder / "all.jsonl") if not isinstance(record, Rejected)]
    assert "7 records in" in edgevit("tune", "--export", "rpi4.jsonl", "--target", "rpi4").out
    own = {record.line() for record in exported if record.target.name == "rpi4"}  # others ship
    assert own == {record.line() for record in read_records(user)}  # type: ignore[union-attr]
    assert "4 records kept" in edgevit("tune", "--prune").out
    assert len(list(read_records(user))) == 4
    assert "4 records kept" in edgevit("tune", "--prune", "a").out  # three choices, and the failure
    assert json.loads(edgevit("tune", "--prune", "b", "--json").out)["logs"][0]["kept"] == 4


def broken(folder: Path) -> None:
    """Models that nothing can be done with."""
    (folder / "half.onnx").write_bytes((folder / "small.onnx").read_bytes()[:300])
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "text.onnx").write_text("no model\n")
    one = helper.make_tensor_value_info
    ends = [one("x", TensorProto.FLOAT, (2, 3))], [one("y", TensorProto.FLOAT, (6,))]
    opsets = [helper.make_opsetid("", 17)]
    for name, node in (("view", helper.make_node("Flatten", ["x"], ["z"], axis=0)), ("odd", None)):
        nodes = [node or helper.make_node("Frobnicate", ["x"], ["z"], name="strange")]
        nodes.append(helper.make_node("Squeeze", ["z", "zero"], ["y"]))
        zero = helper.make_tensor("zero", TensorProto.INT64, [1], [0])
        graph = helper.make_graph(nodes, name, *ends, [zero])
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / f"{name}.onnx")
    (folder / "file").write_text("")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "no model was given"),
        (("none.onnx",), 2, "none.onnx"),
        (("half.onnx",), 2, "half.onnx"),
        (("empty.onnx",), 2, "empty.onnx"),
        (("text.onnx",), 2, "text.onnx"),
        (("odd.onnx",), 2, "Frobnicate"),
        (("view.onnx",), 2, "no kernel of this model has a choice"),
        (("small.onnx", "-t", "arn"), 2, "arm"),
        (("small.onnx", "-t", ELSEWHERE), 2, "this machine"),
        (("small.onnx", "--shape", "1x-3"), 2, "1x-3"),
        *((("small.onnx", "--minutes", text), 2, "are no limit") for text in ("0", "-1", "nan", "inf", "-inf")),
        (("small.onnx", "--workers", "many"), 2, "'many' names no workers"),
        (("small.onnx", "--workers", "0"), 2, "'0' names no workers"),
        (("small.onnx", "--workers", "tcp://127.0.0.1:99999"), 2, "names no workers"),
        (("small.onnx", "--plot", "x.gif"), 2, ".svg, .png, .pdf"),
        (("small.onnx", "--plot", "nowhere/x.svg"), 2, "nowhere"),
        (("small.onnx", "--tuning-log", "file"), 2, "cannot write"),
        (("small.onnx", "--rpc", "127.0.0.1:1"), 3, "cannot connect"),
        (("small.onnx", "--rpc", "nonsense:port"), 2, "not an address"),
        (("small.onnx", "--rpc", "127.0.0.1:1", "--local"), 2, "more than one way"),
        (("small.onnx", "--tracker", "127.0.0.1:1"), 2, "belong together"),
        (("small.onnx", "--key", "board"), 2, "belong together"),
        (("small.onnx", "--tracker", "127.0.0.1:1", "--key", "board"), 3, "cannot connect"),
        (("small.onnx", "--emulate"), 3, "no emulator"),
        (("--status", "--prune"), 2, "--status and --prune exclude each other"),
        (("--status", "small.onnx"), 2, "takes no model"),
        (("--export", "all.jsonl", "small.onnx"), 2, "takes no model"),
        (("--export", "nowhere/all.jsonl"), 2, "nowhere"),
        (("--merge",), 2, "no log was given"),
        (("--merge", "none.jsonl"), 2, "none.jsonl"),
        (("--prune", "none.jsonl"), 2, "none.jsonl"),
    ],
)
def test_a_mistake_is_one_clear_error_with_advice(
    folder: Path, edgevit: Command, arguments: Sequence[str], code: int, words: str
) -> None:
    broken(folder)
    before = sorted(folder.iterdir())
    said = edgevit("tune", *arguments, *(() if not arguments or arguments[0][0] == "-" else QUICK), code=code)
    assert words in said.words
    assert said.err.lstrip().startswith("error: ")
    assert "\n  → " in said.err
    assert said.out == ""
    assert not [path for path in sorted(folder.rglob("*.jsonl")) if path.stat().st_size]
    assert [path for path in sorted(folder.iterdir()) if path not in before and path.name != "user"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--trials", "0"),
        ("--timeout", "nan"),
        ("--trials", "many"),
        ("--batch", "0"),
        ("--threads", "-1"),
        ("--devices", "0"),
    ],
)
def test_numbers_that_are_none(edgevit: Command, arguments: Sequence[str]) -> None:
    assert arguments[0] in edgevit("tune", "small.onnx", *arguments, code=2).words


def test_a_tracker_without_such_a_device(edgevit: Command) -> None:
    with stock("rpc_tracker") as (_, port):
        said = edgevit("tune", "small.onnx", "--tracker", f"127.0.0.1:{port}", "--key", "board", code=3)
        assert "no device is registered under the key 'board'" in said.words
        assert "edgevit devices list" in said.words


def test_somebody_else_answers(edgevit: Command) -> None:
    with listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        said = edgevit("tune", "small.onnx", "--rpc", f"127.0.0.1:{port}", code=3)
    assert "no TVM RPC server" in said.words
    said = edgevit("tune", "small.onnx", "--rpc", f"127.0.0.1:{free_port()}", "--timeout", "2", code=3)
    assert "cannot connect" in said.words


def until_records(process: subprocess.Popen[str], log: Path, count: int) -> None:
    assert wait_until(
        lambda: process.poll() is not None or (log.is_file() and log.read_bytes().count(b"\n") >= count), 120
    )
    assert process.poll() is None, process.communicate()


def test_ctrl_c_says_how_to_go_on(folder: Path) -> None:
    log, known = folder / "my logs" / "host" / "records.jsonl", Counter[Any]()
    arguments = ["tune", "small.onnx", "--minutes", "20", *QUICK, "--tuning-log", "my logs"]
    # Ctrl-C reaches all processes of the terminal.
    ends: list[Callable[[int], None]] = [
        lambda pid: os.killpg(pid, signal.SIGINT),
        lambda pid: os.kill(pid, signal.SIGTERM),
    ]
    for end in ends:
        with start(*arguments, cwd=folder) as process:
            until_records(process, log, known.total() + 2)
            end(process.pid)
            out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert "interrupted" in out
        assert "kernels of small" in out
        said = next(line for line in out.splitlines() if line.startswith("go on with: "))
        assert shlex.split(said.removeprefix("go on with: ")) == ["edgevit", *arguments]
        arguments = shlex.split(said.removeprefix("go on with: "))[1:]
        assert all(isinstance(record, KernelRecord) for record in read_records(log))
        found = tried(log)
        assert len(found) > len(known)
        assert all(found[key] == known[key] for key in known)
        assert max(found.values()) <= 2
        known = found


def test_ctrl_c_gives_scripts_their_document(folder: Path, edgevit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(tuner: Tuner, *arguments: Any) -> None:
        written(tuner, *arguments)
        if tuner.trials == 2:
            raise KeyboardInterrupt

    written = Tuner._write
    monkeypatch.setattr(Tuner, "_write", write)
    found = json.loads(edgevit("tune", "small.onnx", *QUICK, "--json", code=130).out)
    assert (found["reason"], found["trials"]) == ("interrupted", 2)
    assert found["resume"] == "edgevit tune small.onnx --threads 1 --batch 3 --json"


def test_ctrl_c_before_it_has_begun(edgevit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{find_places.__module__}.find_places", interrupted)
    said = edgevit("tune", "small.onnx", *QUICK, code=130)
    assert said.out == ""
    assert "Traceback" not in said.err
