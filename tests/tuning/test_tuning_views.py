"""What a tuning run shows."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from edgevit.cli.tuning_display import FRAME_SECONDS, SAY_SECONDS, TuningDisplay
from edgevit.model import Model
from edgevit.report.tuning_table import progress_line, tuning_summary, tuning_table
from edgevit.targets import get_target
from edgevit.tuning.record import About
from edgevit.tuning.records import choice_key
from edgevit.tuning.roofline import Peaks, bound, measure_peaks
from edgevit.tuning.schedule import Progress
from edgevit.tuning.shapes import short_shape
from edgevit.tuning.tasks import extract_tasks
from edgevit.tuning.view import ModelView, TaskView, TuningView, model_views, task_views
from edgevit.tuning.workloads import describe

PEAKS = Peaks(1e12, ((1 << 15, 1e11), (1 << 20, 2e10)))
HOSTILE = "\x1b[2J\x07[bold]\nname\r\u202e"


def task(number: int = 0, **fields: object) -> TaskView:
    known = TaskView(
        key=f"conv/1/{number:02x}",
        name="conv",
        shape=f"{64 + number}→256 1x1 of 4096 +add+silu",
        calls=3,
        share=0.25 / (number + 1),
        trials=1234,
        failures=56,
        default_seconds=600e-6,
        best_seconds=400e-6,
        roofline_seconds=300e-6,
        state="measuring",
    )
    return replace(known, **fields)  # type: ignore[arg-type]


def view(tasks: int = 40, **fields: object) -> TuningView:
    known = TuningView(
        models=(ModelView("mobilevit-s", 14.0e-3, 11.2e-3, 7e-3),),
        entries=tuple(map(task, range(tasks))),
        elapsed=725,
        minutes=60,
        trials=1200,
        rate=6.07,
        building=2,
        devices=("Cortex-A76",),
        failures={"build": 3, "wrong": 1},
    )
    return replace(known, **fields)  # type: ignore[arg-type]


def shown(what: RenderableType, width: int, height: int = 24) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, highlight=False)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("width", "heads"),
    [
        (60, ["layer", "share", "best", "gain", "state"]),
        (100, ["layer", "calls", "share", "trials", "default", "best", "gain", "roofline", "state"]),
        (200, ["layer", "calls", "share", "trials", "failed", "default", "best", "gain", "roofline", "state"]),
    ],
)
def test_columns_are_those_that_fit(width: int, heads: list[str]) -> None:
    lines = shown(tuning_table(view(), width, 24), width).splitlines()
    head = next(line for line in lines if line.startswith("layer"))
    assert head.split() == heads
    row = next(line for line in lines if line.startswith("conv 64→256 1x1"))
    figures = {
        "calls": "3", "share": "25.0%", "trials": "1,234", "failed": "56", "default": "600 µs", "best": "400 µs",
        "gain": "×1.50", "roofline": "75%", "state": "measuring",
    }  # fmt: skip
    for name in heads[1:]:
        assert f" {figures[name]} " in f"{row} ", name
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize("width", [30, 60, 100, 200])
@pytest.mark.parametrize("height", [10, 24, 100])
def test_the_table_fits_the_terminal_and_counts_what_it_leaves_out(width: int, height: int) -> None:
    models = tuple(ModelView(f"model {number} with a name that is long", 2e-3, 1e-3) for number in range(9))
    text = shown(tuning_table(view(models=models), width, height), width, height)
    lines = text.splitlines()
    assert len(lines) <= max(height, 3 + 3 + 6)
    assert all(cell_len(line) <= width for line in lines)
    rows = sum(line.startswith("conv") for line in lines)
    assert rows == 40 or f"and {40 - rows} more tasks" in text
    named = sum(line.startswith("kernels of") for line in lines)
    assert named == 9 or f"and {9 - named} more models" in text


def test_the_head_says_how_far_the_run_is() -> None:
    text = shown(tuning_table(view(), 200, 24), 200)
    for part in ("12:05 of 1:00:00", "1,200 trials (6.1/s)", "2 builds waiting", "4 failures", "on Cortex-A76"):
        assert part in text
    assert "47:55 left at most" in text
    assert "kernels of mobilevit-s: 14 ms → 11.2 ms (×1.25), 62% of the roofline" in text


def test_time_left_is_that_of_the_nearer_limit() -> None:
    assert view(minutes=60, trial_limit=1260, rate=6.0).seconds_left == 10
    assert view(minutes=13, trial_limit=9999, rate=1.0).seconds_left == 55
    assert view(minutes=1).seconds_left == 0
    assert view(minutes=None).seconds_left is None
    assert "left" not in progress_line(view(minutes=None))


def test_nothing_measured_and_nothing_known_is_shown_as_such() -> None:
    unknown = task(default_seconds=None, best_seconds=None, roofline_seconds=None, state="waiting")
    text = shown(tuning_table(view(entries=(unknown,), rate=None, failures={}), 120, 24), 120)
    row = next(line for line in text.splitlines() if line.startswith("conv"))
    assert row.split()[-4:] == ["–", "–", "–", "waiting"]
    assert "roofline" not in text.split("layer")[1]
    assert "layer" not in shown(tuning_table(view(entries=(), models=()), 120, 24), 120)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_summary_says_how_it_ended_and_what_was_gained(width: int) -> None:
    text = shown(tuning_summary(view(reason="interrupted"), width), width)
    for part in (
        "kernels of mobilevit-s: 14 ms → 11.2 ms (×1.25)",
        "interrupted",
        "1,200 trials in 12:05",
        "3 build, 1 wrong",
    ):
        assert part in text
    assert "and 25 more tasks" in text
    assert "measuring" not in text
    assert "the time is spent" in shown(tuning_summary(view(reason="minutes"), width), width)


@pytest.mark.parametrize("terminal", [True, False])
def test_names_from_elsewhere_cannot_command_a_terminal(terminal: bool) -> None:
    odd = view(
        models=(ModelView(HOSTILE, 2e-3, 1e-3),),
        entries=(task(shape=HOSTILE),),
        devices=(HOSTILE,),
        failures={HOSTILE: 1},
        reason=HOSTILE,
    )
    for what in (tuning_table(odd, 100, 24), tuning_summary(odd, 100)):
        text = shown(what, 100)
        assert "[bold]" in text
        assert all(line.isprintable() for line in text.split("\n"))
    console, file = a_console(terminal=False)
    moment = [0.0]
    with TuningDisplay(console, lambda: moment[0]) as display:
        moment[0] = SAY_SECONDS
        display.update(odd)
    assert r"\x1b[2J" in file.getvalue()
    assert all(line.isprintable() for line in file.getvalue().split("\n"))


def a_console(*, terminal: bool, width: int = 100) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=width, height=24, _environ={"TERM": "xterm"}), file


def test_where_nobody_watches_there_is_a_line_a_minute_and_one_for_a_new_best() -> None:
    console, file = a_console(terminal=False, width=40)
    moment = [0.0]
    light = task(1, share=0.001)
    with TuningDisplay(console, lambda: moment[0]) as display:
        for second in range(150):
            moment[0] = float(second)
            gained = second >= 10
            heavy = task(0, best_seconds=400e-6 if gained else 600e-6)
            old = task(2, best_seconds=1e-6)  # gained by an earlier run
            display.update(view(elapsed=second, entries=(heavy, light, old)))
    lines = file.getvalue().splitlines()
    assert lines[0] == "conv 64→256 1x1 of 4096 +add+silu: 600 µs → 400 µs (×1.50)"
    assert [line.split(",")[0] for line in lines[1:]] == ["1:00 of 1:00:00", "2:00 of 1:00:00"]
    assert "kernels of mobilevit-s: 14 ms → 11.2 ms (×1.25)" in lines[1]
    assert "\x1b" not in file.getvalue()


def test_a_gain_of_next_to_nothing_is_not_worth_a_line() -> None:
    console, file = a_console(terminal=False)
    moment = [0.0]
    with TuningDisplay(console, lambda: moment[0]) as display:
        for step in range(100):
            moment[0] += FRAME_SECONDS
            display.update(view(entries=(task(0, best_seconds=600e-6 * (1 - step / 1e4)),)))
    assert file.getvalue().count("conv") == 0


def test_on_a_terminal_the_table_is_drawn_now_and_then_and_gone_at_the_end() -> None:
    console, file = a_console(terminal=True)
    moment = [0.0]

    def interrupted(display: TuningDisplay) -> None:
        for _ in range(10):
            display.update(view(elapsed=moment[0]))
            moment[0] += FRAME_SECONDS / 4
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), TuningDisplay(console, lambda: moment[0]) as display:
        interrupted(display)
    said = file.getvalue()
    assert 3 <= said.count("trials (") <= 4  # a view each second, and the last once more before it is wiped
    hidden, back = "\x1b[?25l", "\x1b[?25h"
    assert 0 <= said.index(hidden) < said.rindex(back)
    assert "\x1b[2K" in said[said.rindex("trials (") :]  # wiped


def test_a_terminal_that_cannot_move_its_cursor_gets_lines() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, _environ={"TERM": "dumb"})
    moment = [0.0]
    with TuningDisplay(console, lambda: moment[0]) as display:
        moment[0] = SAY_SECONDS
        display.update(view())
    assert "12:05 of 1:00:00" in file.getvalue()
    assert "\x1b[?25" not in file.getvalue()


def test_views_of_real_tasks(small_model: Model) -> None:
    target = get_target("host")
    entries = [Progress(each) for each in extract_tasks({"small": small_model}, target)]
    first = entries[0]
    first.results[choice_key(first.task.default)] = 2e-3
    first.trials, first.failures = 5, 1
    found = task_views(entries, PEAKS, lambda entry: "building" if entry is first else "waiting")
    assert sum(each.share for each in found) == pytest.approx(1)
    assert (found[0].default_seconds, found[0].best_seconds, found[0].trials, found[0].failures) == (2e-3, 2e-3, 5, 1)
    assert (found[0].state, found[1].state) == ("building", "waiting")
    assert all(each.roofline_seconds for each in found)
    assert found[0].ratio == 1
    (model,) = model_views(entries, PEAKS)
    assert model.name == "small"
    assert model.before == model.after >= found[0].calls * 2e-3
    assert model.roofline == pytest.approx(sum(each.calls * (each.roofline_seconds or 0) for each in found))
    assert model_views(entries)[0].roofline is None
    assert (model.kernels, model.guessed) == (len(found), sum(entry.seconds is None for entry in entries))
    shown(tuning_table(view(entries=found, models=(model,)), 100, 24), 100)


def test_the_roofline_is_the_slower_of_arithmetic_and_memory() -> None:
    assert bound("conv", 10**9, 2**15, PEAKS) == pytest.approx(1e-3)
    assert bound("winograd", 10**9, 2**15, PEAKS) == pytest.approx(0.25e-3)
    assert bound("permute", 0, 2**21, PEAKS) == pytest.approx(2**21 / 2e10)
    # Of an amount between two that were measured, the smaller one's cache may hold nearly all.
    assert PEAKS.bytes_per_second(2**19) == 1e11
    assert PEAKS.bytes_per_second(1) == 1e11
    # A small amount is no slower than a large one, whatever a launch cost when it was measured.
    assert Peaks(1.0, ((1, 5.0), (2, 7.0))).bytes_per_second(1) == 7.0


def test_peaks_are_measured_on_the_device_that_a_session_reaches() -> None:
    import edgevit

    with edgevit.connect() as session:
        peaks = measure_peaks(session, get_target("host"), 1)
    assert peaks is not None
    assert 1e8 < peaks.flops_per_second < 1e13
    sizes = [size for size, _ in peaks.bandwidths]
    assert sizes == sorted(set(sizes))
    assert all(1e7 < rate < 1e13 for _, rate in peaks.bandwidths)


def test_an_emulated_device_has_no_peaks() -> None:
    session = SimpleNamespace(emulated=True)
    assert measure_peaks(session, get_target("rpi4"), 1) is None  # type: ignore[arg-type]


SHAPES = {
    "3→16 3x3/2 of 256x256 +add+silu": (
        "conv",
        "batch 1; height 256; width 256; sources 3; channels 16; kernel 3x3; strides 2x2; pads 1x1x1x1; "
        "dilations 1x1; groups 1",
        "add silu",
    ),
    "96+96→96 1x1 of 2x1024 groups 2": (
        "conv",
        "batch 2; height 1; width 1024; sources 96x96; channels 96; kernel 1x1; strides 1x1; pads 0x0x0x0; "
        "dilations 1x1; groups 2",
        "",
    ),
    "64 3x3/2x1 of 128x64": (
        "depthwise",
        "windows batch 1 channels 64 rows size 128 output 64 kernel 3 stride 2 before 1 after 1 dilation 1 "
        "columns size 64 output 64 kernel 3 stride 1 before 1 after 1 dilation 1",
        "",
    ),
    "3x4: 197x64 · 64x197 +mul": (
        "matmul",
        "batch 3x4; left 3x4; right 3x4; rows 197; depth 64; columns 197; transpose_b yes",
        "mul",
    ),
    "mean 1x8x8x640 over 1x2": ("reduce", "kind mean; shape 1x8x8x640; axes 1x2; keepdims yes", ""),
    "view 3x65536 perm 1x0": ("permute", "view 3x65536; perm 1x0", ""),
    "something else; of another version": ("conv", "something else; of another version", ""),
}


@pytest.mark.parametrize("short", SHAPES)
def test_shapes_are_said_in_few_words(short: str) -> None:
    family, shape, epilogue = SHAPES[short]
    assert short_shape(About(family=family, shape=shape, dtype="float32", epilogue=epilogue)) == short


def test_every_kernel_of_a_model_has_a_short_shape(small_model: Model) -> None:
    for each in extract_tasks({"small": small_model}, get_target("host")):
        about = describe(each.family, each.workload)
        short = short_shape(about)
        assert short.isprintable()
        assert short != about.shape or len(short) < 40


def test_looks_that_take_long_are_rare() -> None:
    console, _ = a_console(terminal=False)
    moment, looks = [0.0], []

    def look() -> TuningView:
        looks.append(moment[0])
        moment[0] += 0.2
        return view()

    with TuningDisplay(console, lambda: moment[0]) as display:
        while moment[0] < 100.0:
            display.show(look)
            moment[0] += 0.1
    assert 0.2 * len(looks) < 3.0
    assert len(looks) > 5
