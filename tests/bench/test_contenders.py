"""The contest: who is right is compared, who is wrong or absent is named with the reason."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgevit.bench.channel import Channel
from edgevit.bench.contenders import environments as installing
from edgevit.bench.contenders.catalogue import EDGEVIT, PEERS, WORKERS, Peer, peers_named
from edgevit.bench.contenders.contest import Settings, run_model, run_once
from edgevit.bench.contenders.field import Field, Yardstick, environments
from edgevit.bench.contenders.judge import Case, make_cases, normalised_error
from edgevit.bench.contenders.ranking import fastest, paired, round_medians
from edgevit.bench.contenders.result import ContenderResult, ContestResult, ModelResult, RunResult
from edgevit.bench.contenders.rounds import Plan, order, take_rounds
from edgevit.bench.contenders.tables import markdown, rich_tables
from edgevit.bench.contenders.worker import Entrant, Turn, convert
from edgevit.errors import DeviceTimeout, EnvironmentFailure, UserError
from tests.models import small_proto

SHORT = Plan(rounds=6, calls=2, minimum_seconds=0.0, pause_seconds=0.0)
NO_PEAK = EnvironmentFailure("no FMA kernel in this test.")

HONEST = """
import numpy as np
import time
class Runner:
    version = "1.0"
    def __init__(self, config):
        self.pause = config.get("pause", 0.0)
    def set_inputs(self, arrays):
        self.image = next(iter(arrays.values()))
    def run(self):
        print("noise on stdout is no answer")
        time.sleep(self.pause)
        return [self.image * np.float32(2)]
"""


def _entrant(folder: Path, name: str, code: str, **config: object) -> Entrant:
    runner = folder / f"{name}_runner.py"
    runner.write_text(code)
    return Entrant(name, name.upper(), Path(sys.executable), runner, folder / "none.model", config, 1e-3)


def _cases(folder: Path, count: int = 4) -> list[Case]:
    """Inputs whose right answer is twice the input."""
    cases = []
    for seed in range(count):
        array = np.random.default_rng(seed).standard_normal((1, 3, 4, 5)).astype(np.float32)
        path = folder / f"case-{seed}.npy"
        np.save(path, array)
        cases.append(Case({"image": path}, [array * 2]))
    return cases


def _run(folder: Path, entrants: Sequence[Entrant], absent: Sequence[tuple[str, str, str, str]] = ()) -> RunResult:
    field = Field(list(entrants), list(absent))
    return run_once(field, NO_PEAK, _cases(folder), 1000, 1, SHORT, folder)


def _by_name(run: RunResult) -> dict[str, ContenderResult]:
    return {contender.name: contender for contender in run.contenders}


def test_the_fastest_right_contender_comes_first_and_ratios_are_to_the_best_peer(tmp_path: Path) -> None:
    entrants = [
        _entrant(tmp_path, EDGEVIT, HONEST, pause=0.001),
        _entrant(tmp_path, "slow", HONEST, pause=0.03),
        _entrant(tmp_path, "onnxruntime", HONEST, pause=0.01),
    ]
    run = _run(tmp_path, entrants)
    assert [contender.name for contender in run.contenders] == [EDGEVIT, "onnxruntime", "slow"]
    assert run.best_peer == "onnxruntime"  # edgevit is none of its own peers
    for contender in run.contenders:
        assert contender.status == "ok"
        assert contender.max_error == 0
        assert len(contender.rounds) == SHORT.rounds
        assert all(len(seconds) == SHORT.calls for seconds in contender.rounds)
        assert contender.peak_rss_bytes
        assert contender.peak_rss_bytes > 1 << 20
        assert contender.to_baseline == contender.to_best_peer
    own = _by_name(run)[EDGEVIT]
    assert own.to_best_peer
    assert own.to_best_peer.median < 1
    assert own.to_best_peer.ci95_low is not None
    assert own.to_best_peer.ci95_high is not None
    assert own.to_best_peer.ci95_low <= own.to_best_peer.median <= own.to_best_peer.ci95_high


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("self.image * np.float32(2.01)", "max abs error is 5.0e-03"),
        ("self.image * np.float32('nan')", "not a number"),
        ("self.image[..., :2]", "another shape"),
    ],
)
def test_a_wrong_contender_has_no_time(tmp_path: Path, spoil: str, words: str) -> None:
    wrong = HONEST.replace("self.image * np.float32(2)", spoil)
    run = _run(tmp_path, [_entrant(tmp_path, "wrong", wrong), _entrant(tmp_path, "onnxruntime", HONEST)])
    result = _by_name(run)["wrong"]
    assert result.status == "wrong"
    assert words in (result.reason or "")
    assert result.median_seconds is None
    assert result.rounds == ()
    assert run.best_peer == "onnxruntime"


def test_a_contender_that_goes_wrong_while_it_is_measured_has_no_time(tmp_path: Path) -> None:
    # Four calls check two inputs before; from the sixth on the answer is off.
    late = HONEST.replace("class Runner:", "class Runner:\n    calls = 0").replace(
        "return [self.image * np.float32(2)]",
        "self.calls += 1\n        return [self.image * np.float32(2 if self.calls < 6 else 3)]",
    )
    run = _run(tmp_path, [_entrant(tmp_path, "late", late)])
    assert run.contenders[0].status == "wrong"
    assert run.contenders[0].rounds == ()
    assert run.best_peer is None


@pytest.mark.parametrize("when", ["load", "check", "time"])
def test_a_contender_that_dies_is_named_and_the_others_go_on(tmp_path: Path, when: str) -> None:
    dies = {
        "load": HONEST.replace("class Runner:", "raise RuntimeError('out of luck')\nclass Runner:"),
        "check": HONEST.replace("time.sleep(self.pause)", "raise RuntimeError('out of luck')"),
        "time": HONEST.replace("class Runner:", "class Runner:\n    calls = 0").replace(
            "time.sleep(self.pause)",
            "self.calls += 1\n        if self.calls > 6: raise RuntimeError('out of luck')",
        ),
    }[when]
    run = _run(tmp_path, [_entrant(tmp_path, "mortal", dies), _entrant(tmp_path, "onnxruntime", HONEST)])
    results = _by_name(run)
    assert results["mortal"].status == "failed"
    assert "out of luck" in (results["mortal"].reason or "")
    assert results["mortal"].median_seconds is None
    assert results["onnxruntime"].status == "ok"
    assert len(results["onnxruntime"].rounds) == SHORT.rounds


def test_outputs_with_channels_last_are_right(tmp_path: Path) -> None:
    case = _cases(tmp_path, 1)[0]
    (reference,) = case.outputs
    assert normalised_error([reference.transpose(0, 2, 3, 1)], case) == 0
    assert normalised_error([reference, reference], case) == float("inf")


def test_the_reference_is_the_mathematics_of_the_model(tmp_path: Path) -> None:
    from edgevit.model import load

    path = tmp_path / "small.onnx"
    onnx.save(small_proto(), path)
    case, other = make_cases(load(path), tmp_path, (0, 1))
    logits, features = case.outputs
    weights = {item.name: onnx.numpy_helper.to_array(item) for item in small_proto().graph.initializer}
    pooled = features.astype(np.float64).mean(axis=(2, 3))
    np.testing.assert_allclose(logits, pooled @ weights["matrix"], rtol=1e-4, atol=1e-5)
    assert not np.array_equal(np.load(case.inputs["image"]), np.load(other.inputs["image"]))


def test_every_contender_comes_in_every_place_equally_often() -> None:
    names = ["a", "b", "c"]
    orders = [order(names, number) for number in range(3 * len(names))]
    for place in range(len(names)):
        assert sorted(taken[place] for taken in orders) == sorted(names * 3)
    assert order([], 3) == []


class _Clock:
    """A contender that always takes as long, and writes down when it was its turn."""

    def __init__(self, name: str, seconds: float, diary: list[str]) -> None:
        self.name, self.seconds, self.diary = name, seconds, diary

    def time(self, calls: int) -> Turn:
        self.diary.append(self.name)
        return Turn((self.seconds,) * calls, calls * self.seconds, 0.0)


def test_rounds_rotate_and_go_on_until_everyone_has_the_seconds() -> None:
    diary: list[str] = []
    rests: list[float] = []
    clocks = {name: _Clock(name, seconds, diary) for name, seconds in (("a", 0.1), ("b", 0.3))}
    plan = Plan(rounds=2, calls=5, minimum_seconds=2.0, pause_seconds=0.25)
    samples = take_rounds(clocks, plan, rest=rests.append)
    assert [len(taken.turns) for taken in samples.values()] == [4, 4]  # "a" needs four rounds of half a second
    assert diary == [*"ab", *"ab", *"ba", *"ab", *"ba"]  # the first round is not counted
    assert rests == [0.25] * len(diary)


def test_a_yardstick_alone_measures_nothing() -> None:
    diary: list[str] = []
    samples = take_rounds({"y": _Clock("y", 1.0, diary)}, SHORT, yardsticks=("y",), rest=lambda _: None)
    assert samples["y"].turns == []


def test_pairing_cancels_what_slows_everyone() -> None:
    draw = np.random.default_rng(1)
    weather = draw.uniform(1, 10, 40)
    other = weather * 1e-3
    own = other * 0.8 * draw.normal(1, 0.01, 40)
    ratio = paired(own.tolist(), other.tolist())
    assert ratio.median == pytest.approx(0.8, rel=0.01)
    assert ratio.ci95_low is not None
    assert ratio.ci95_high is not None
    assert 0.78 < ratio.ci95_low <= ratio.median <= ratio.ci95_high < 0.82
    assert paired(own.tolist(), other.tolist()) == ratio


def test_the_interval_agrees_with_scipys_bootstrap() -> None:
    from scipy.stats import bootstrap

    ratios = np.random.default_rng(2).lognormal(0.0, 0.2, 50)
    ours = paired(ratios.tolist(), [1.0] * 50)
    theirs = bootstrap(
        (ratios,), np.median, n_resamples=4000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert ours.ci95_low == pytest.approx(theirs.low, rel=0.02)
    assert ours.ci95_high == pytest.approx(theirs.high, rel=0.02)


def test_few_rounds_give_no_interval_and_unequal_ones_no_ratio() -> None:
    assert paired([1.0, 2.0], [2.0, 4.0]).ci95_low is None
    with pytest.raises(ValueError, match="paired"):
        paired([1.0], [])
    assert round_medians([[3.0, 1.0, 2.0], [5.0]]) == [2.0, 5.0]
    assert fastest({"a": [2.0, 9.0, 2.0], "b": [3.0, 3.0, 3.0]}) == "a"
    assert fastest({}) is None


def test_a_failing_installation_is_reported_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path))
    said: list[str] = []

    def failing(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        Path(command[-1]).mkdir(exist_ok=True, parents=True) if "venv" in command else None
        wrong = "" if "venv" in command else "ERROR: No matching distribution found for nobody==1.0"
        return subprocess.CompletedProcess(list(command), 1 if wrong else 0, "", wrong)

    monkeypatch.setattr(installing.subprocess, "run", failing)
    peer = Peer("nobody", "Nobody", ("nobody==1.0",), "onnxruntime_runner.py")
    error = environments([peer], install=True, say=said.append)["nobody"]
    assert isinstance(error, EnvironmentFailure)
    assert "No matching distribution found for nobody==1.0" in error.message
    assert "nobody==1.0" in said[0]
    assert not installing.environment_folder(peer).exists()


def test_nothing_is_installed_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path))
    found = environments(list(PEERS.values()), install=False, say=lambda _: pytest.fail("said something"))
    assert all(isinstance(error, EnvironmentFailure) and "not installed" in error.message for error in found.values())
    assert list(tmp_path.iterdir()) == []


def test_an_environment_is_used_again_only_if_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path))
    commands: list[Sequence[str]] = []

    def working(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        installing.environment_folder(peer).mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(list(command), 0, "", "")

    monkeypatch.setattr(installing.subprocess, "run", working)
    peer = PEERS["openvino"]
    python = installing.environment_python(peer, install=True)
    assert set(peer.packages) <= set(commands[1])
    assert "--no-deps" in commands[1]
    assert installing.environment_python(peer, install=False) == python
    assert len(commands) == 2
    next(installing.environment_folder(peer).glob("*.json")).write_text("{")
    installing.environment_python(peer, install=True)
    assert len(commands) == 4


def test_no_contender_can_install_or_report_anything() -> None:
    variables = installing.quiet_environment(2)
    assert variables["PIP_NO_INDEX"] == "1"
    assert variables["ORT_DISABLE_TELEMETRY"] == "1"
    assert variables["https_proxy"].startswith("http://127.0.0.1")
    assert variables["TVM_NUM_THREADS"] == "2"
    for peer in PEERS.values():
        assert all(re.fullmatch(r"[A-Za-z-]+==[\d.]+", package) for package in peer.packages)
        assert not any("telemetry" in package or "torch" in package for package in peer.packages)


def test_workers_need_nothing_but_their_peer() -> None:
    for file in WORKERS.glob("*.py"):
        assert not re.search(r"^\s*(from|import) edgevit", file.read_text(), re.MULTILINE), file.name
    for peer in PEERS.values():
        assert peer.runner_path.is_file()


def test_peers_are_chosen_by_name() -> None:
    assert [peer.name for peer in peers_named("mnn, litert,mnn")] == ["mnn", "litert"]
    assert len(peers_named("all")) == len(PEERS)
    assert peers_named("") == []
    with pytest.raises(UserError, match="tensorfast"):
        peers_named("onnxruntime,tensorfast")


def test_a_converter_that_fails_says_why(tmp_path: Path) -> None:
    runner = tmp_path / "runner.py"
    runner.write_text("def convert(config):\n    raise RuntimeError('operator Foo is unknown')\n")
    with pytest.raises(EnvironmentFailure, match="operator Foo is unknown"):
        convert(Path(sys.executable), runner, "Peer", {})
    with pytest.raises(EnvironmentFailure, match="could not be started"):
        convert(tmp_path / "no-python", runner, "Peer", {})


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('nonsense', flush=True); input()", "not a JSON object"),
        ("raise SystemExit('bad day')", "bad day"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
    ],
)
def test_a_channel_says_what_went_wrong(code: str, words: str) -> None:
    channel = Channel([sys.executable, "-c", code], who="the child")
    try:
        with pytest.raises(EnvironmentFailure, match=words):
            channel.reply(30)
    finally:
        channel.close()
        channel.close()


def test_a_channel_does_not_wait_for_ever() -> None:
    channel = Channel([sys.executable, "-c", "input()"], who="the child")
    try:
        with pytest.raises(DeviceTimeout, match="the child"):
            channel.reply(0.01)
    finally:
        channel.close()


@pytest.fixture(scope="module")
def yardstick(tmp_path_factory: pytest.TempPathFactory) -> Yardstick:
    from edgevit.bench.contenders.fma import build_fma_kernel

    kernel = build_fma_kernel(tmp_path_factory.mktemp("fma"), 1, steps=1000)
    config = {"lanes": kernel.lanes, "sums": kernel.sums}
    runner = WORKERS / "fma_runner.py"
    return Yardstick(Entrant("fma peak", "", Path(sys.executable), runner, kernel.library, config, None), kernel.flops)


def test_the_peak_is_measured_and_shares_of_it_follow(tmp_path: Path, yardstick: Yardstick) -> None:
    field = Field([_entrant(tmp_path, "onnxruntime", HONEST, pause=0.002)])
    run = run_once(field, yardstick, _cases(tmp_path), 10**6, 1, SHORT, tmp_path)
    assert run.peak is not None
    assert run.peak.flops_per_second > 0
    assert len(run.peak.rounds) == SHORT.rounds
    (contender,) = run.contenders
    assert contender.median_seconds
    expected = 2 * 10**6 / contender.median_seconds / run.peak.flops_per_second
    assert contender.roofline == pytest.approx(expected)


def test_every_chain_of_the_peak_kernel_computes(yardstick: Yardstick) -> None:
    import tvm

    entry = tvm.runtime.load_module(str(yardstick.entrant.model))["entry"]
    lanes, sums = yardstick.entrant.config["lanes"], yardstick.entrant.config["sums"]
    result = tvm.runtime.tensor(np.zeros(sums, np.float32))
    entry(tvm.runtime.tensor(np.repeat(np.array([0.25, 1.0], np.float32), lanes)), result)
    chains = result.numpy().reshape(-1, lanes)
    starts = np.arange(len(chains), dtype=np.float32)[:, None]
    np.testing.assert_array_equal(chains, np.broadcast_to(starts + 1000 * 0.25, chains.shape))
    assert yardstick.flops == 2 * 1000 * sums


@pytest.mark.parametrize("name", ["x86-64-v3", "rpi5"])
def test_the_peak_kernel_is_fmas_on_registers_without_libm(name: str) -> None:
    import tvm

    from edgevit.bench.contenders.fma import chains_for, fma_module
    from edgevit.targets import get_target

    target = get_target(name)
    code = tvm.compile(fma_module(target, 2), target=tvm.target.Target(target.tvm_target()))
    text = code.mod.inspect_source("asm")
    assert not re.search(r"\b(call\w*|bl)\s+(fmaf?|expf?)\b", text)
    whole, chains = _fmas(text), chains_for(target)
    assert whole
    assert len(whole) % chains == 0
    # From the first FMA to the last nothing moves or spills: what is not an FMA counts or branches.
    lines = text[text.index(whole[0]) : text.rindex(whole[-1])].splitlines()
    others = [line for line in lines if not _fmas(line) and not re.match(r"\s*(\.|//|#|[.\w]+:|$)", line)]
    assert not [
        line for line in others if re.search(r"\b(v?mov[au]p[sd]|mov|ldr|str|ldp|stp)\b.*([xyz]mm|v\d|q\d)", line)
    ]


def _fmas(block: str) -> list[str]:
    return re.findall(r"\b(?:vfm\w+ps|fmla)\b", block)


def _contest(run: RunResult) -> ContestResult:
    return ContestResult(
        date="2026-01-01T00:00:00+00:00",
        machine={"arch": "x86_64", "os": "linux", "cpu": "Some CPU", "cores": 2},
        tools={"edgevit": "0"},
        packages={"onnxruntime": ("onnxruntime==1",)},
        reference="ONNX Runtime",
        rounds=6,
        calls=2,
        minimum_seconds=0.0,
        pause_seconds=0.0,
        checks=2,
        models=(
            ModelResult(name="m.onnx", sha256="0" * 64, macs=1000, inputs={"image": (1, 3, 4, 5)}, runs=(run,)),
            ModelResult(name="broken.onnx", sha256=None, macs=None, inputs={}, failure="it is no model."),
        ),
    )


def test_tables_show_who_is_right_and_name_who_is_not(tmp_path: Path) -> None:
    from rich.console import Console

    wrong = _entrant(tmp_path, "wrong", HONEST.replace("np.float32(2)", "np.float32(3)"))
    absent = [("gone", "Gone", "9.9", "installing Gone failed: nowhere to be found")]
    contest = _contest(_run(tmp_path, [wrong, _entrant(tmp_path, "onnxruntime", HONEST)], absent))
    page = markdown(contest)
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) == 2  # headings and the one whose answers are right
    assert rows[1].startswith("| ONNXRUNTIME 1.0 |")
    printer = Console(width=132, record=True, file=(tmp_path / "out").open("w"))
    for part in rich_tables(contest):
        printer.print(part, markup=False)
    printer.file.close()
    shown = printer.export_text()
    for text in (page, shown):
        assert "WRONG 1.0: wrong: max abs error is" in text
        assert "Gone 9.9: installing Gone failed: nowhere to be found" in text
        assert "broken.onnx: it is no model." in text
        assert "m.onnx" in text


def test_json_keeps_every_sample_and_comes_back_the_same(tmp_path: Path) -> None:
    contest = _contest(_run(tmp_path, [_entrant(tmp_path, "onnxruntime", HONEST)]))
    text = json.dumps(contest.model_dump(mode="json"))
    again = ContestResult.model_validate_json(text)
    assert again == contest
    assert json.loads(text)["schema_version"] == 1
    assert again.models[0].runs[0].peak_failure == NO_PEAK.message
    assert len(again.models[0].runs[0].contenders[0].rounds) == SHORT.rounds


def test_a_model_that_cannot_be_used_is_a_result(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    result = run_model(path, Settings(peers=[]), {}, {1: NO_PEAK})
    assert result.failure
    assert result.runs == ()


def test_a_missing_tflite_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(small_proto(), path)
    settings = Settings(peers=[PEERS["litert"]], plan=SHORT, checks=1, with_edgevit=False)
    result = run_model(path, settings, {"litert": Path(sys.executable)}, {1: NO_PEAK})
    (contender,) = result.runs[0].contenders
    assert contender.status == "failed"
    assert "small.tflite" in (contender.reason or "")


def test_onnxruntimes_runner_in_this_environment(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(small_proto(), path)
    settings = Settings(peers=[PEERS["onnxruntime"]], plan=SHORT, checks=1, with_edgevit=False)
    result = run_model(path, settings, {"onnxruntime": Path(sys.executable)}, {1: NO_PEAK})
    (contender,) = result.runs[0].contenders
    assert contender.status == "ok", contender.reason
    assert contender.max_error is not None
    assert contender.max_error < 1e-5


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        whole = [sys.executable, "-m", "edgevit.bench.contenders", *arguments]
        return subprocess.run(whole, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), "no model"), (("m.onnx", "--threads", "0"), "threads"), (("m.onnx", "--peers", "x"), "no peer 'x'")],
)
def test_the_users_mistakes_end_with_2(command: Command, arguments: tuple[str, ...], words: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_the_command_writes_everything(command: Command, tmp_path: Path) -> None:
    onnx.save(small_proto(), tmp_path / "small.onnx")
    short = ("--rounds", "2", "--calls", "1", "--minimum-seconds", "0", "--pause", "0", "--checks", "1")
    done = command("--models", ".", "--peers", "", "--no-edgevit", *short, "--json", "all.json", "--markdown")
    assert done.returncode == 0, done.stderr
    kept = ContestResult.model_validate_json((tmp_path / "all.json").read_text())
    assert [model.name for model in kept.models] == ["small.onnx"]
    assert "small.onnx" in done.stdout
