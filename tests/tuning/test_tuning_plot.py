"""Pictures of tuning runs."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from edgevit.errors import EnvironmentFailure, UserError
from edgevit.report.tuning_plot import check_plot, plot_tuning
from edgevit.tuning.history import History, Point, history
from tests.tuning.making import measured

SVG = "{http://www.w3.org/2000/svg}"


def run(models: int = 1, trials: int = 40, names: str = "model {}") -> History:
    """A run in which each model has a kernel that gets better."""
    keys = {f"conv/1/{number:02x}": names.format(number) for number in range(models)}
    records = [
        measured({"rows": trial}, (1 + number) * 1e-3 / (1 + trial % 7), workload=key)
        for trial in range(trials)
        for number, key in enumerate(keys)
    ]
    return history(records, {key: {name: 2} for key, name in keys.items()})


def texts(path: Path) -> str:
    """What a picture says: matplotlib writes every text as a comment before its outlines."""
    return path.read_text(encoding="utf-8")


def test_svg_says_what_is_drawn_and_in_which_unit(tmp_path: Path) -> None:
    path = tmp_path / "run.svg"
    plot_tuning(run(models=2), path)
    root = ElementTree.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    said = texts(path)
    for text in ("model 0: 2 ms → 286 µs (×7.00)", "model 1: 4 ms → 571 µs (×7.00)", "sum of all kernels (ms)"):
        assert text in said
    for text in ("trials that gave a latency", "best choices so far", "every default", "a single trial"):
        assert text in said
    plot_tuning(run(), path, "minutes")
    assert "minutes since the first trial" in texts(path)
    assert [each.name for each in tmp_path.iterdir()] == ["run.svg"]


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_the_same_run_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("one", "two"):
        plot_tuning(run(), (tmp_path / name).with_suffix(suffix))
    one, two = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert one == two
    assert one.startswith({".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix])


def test_png_is_a_picture_with_a_curve(tmp_path: Path) -> None:
    path = tmp_path / "run.PNG"
    plot_tuning(run(), path)
    with Image.open(path) as image:
        image.load()
        assert image.width > 1000
        pixels = np.asarray(image.convert("RGB")).astype(int)
    blue = (pixels[..., 2] - pixels[..., 0]) > 80
    assert 500 < blue.sum() < blue.size / 20


def test_many_models_and_trials_fit(tmp_path: Path) -> None:
    few, many = tmp_path / "few.svg", tmp_path / "many.svg"
    plot_tuning(run(models=1, trials=100), few)
    plot_tuning(run(models=12, trials=1000), many)
    heights = [float(ElementTree.parse(path).getroot().attrib["height"][:-2]) for path in (few, many)]
    assert heights[1] > 3 * heights[0]
    assert many.stat().st_size < 3_000_000  # so many dots are drawn as a picture


def test_a_kernel_that_was_never_measured_is_named_as_missing(tmp_path: Path) -> None:
    found = history([measured()], {measured().workload: {"model": 1}, "pool/1/02": {"model": 1}})
    path = tmp_path / "run.svg"
    plot_tuning(found, path)
    assert "without 1 unmeasured kernel" in texts(path)


def test_names_from_elsewhere_are_only_drawn(tmp_path: Path) -> None:
    path = tmp_path / "run.svg"
    plot_tuning(run(names="\x1b[2J$\\frac{{1}}$ -->\n模型 {}"), path)
    ElementTree.parse(path)
    assert b"\x1b" not in path.read_bytes()


def test_what_cannot_be_drawn_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no format of pictures") as refused:
        plot_tuning(run(), tmp_path / "run.gif")
    assert ".svg, .png, .pdf" in (refused.value.advice or "")
    with pytest.raises(UserError, match="no suffix"):
        check_plot(tmp_path / "run")
    with pytest.raises(UserError, match="no trial"):
        plot_tuning(History((), {}, {}), tmp_path / "run.svg")
    with pytest.raises(UserError, match="cannot write"):
        plot_tuning(run(), tmp_path / "absent" / "run.svg")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EnvironmentFailure, match="not installed") as missing:
        plot_tuning(run(), tmp_path / "run.svg")
    assert "edgevit[plot]" in (missing.value.advice or "")
    assert list(tmp_path.iterdir()) == []


def test_settings_of_the_user_change_nothing(tmp_path: Path) -> None:
    import matplotlib

    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    plot_tuning(run(), one)
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "text.usetex": True}):
        plot_tuning(run(), two)
        assert matplotlib.rcParams["font.size"] == 30
    assert zlib.crc32(one.read_bytes()) == zlib.crc32(two.read_bytes())


def test_a_trial_without_a_default_has_no_dot(tmp_path: Path) -> None:
    point = Point(1, 0.0, "conv/1/00", 1e-3, None, {"model": 1e-3})
    plot_tuning(History((point,), {"model": 1e-3}, {"model": 0}), tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 1000
