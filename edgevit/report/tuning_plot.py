"""A picture of a tuning run: how the models' latencies fell, and how every single trial did."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgevit.errors import EnvironmentFailure, UserError
from edgevit.report.text import printable
from edgevit.report.units import seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from edgevit.tuning.history import History

Abscissa = Literal["trials", "minutes"]

SUFFIXES: dict[str, dict[str, Any]] = {
    # What would differ from one run to the next stays out of the files.
    ".svg": {"metadata": {"Date": None}},
    ".png": {"dpi": 150, "metadata": {"Software": None}},
    ".pdf": {"metadata": {"CreationDate": None}},
}
"""Formats, and what each is written with."""

_WIDTH = 9.0
_PANEL = 3.0
_PANELS = 2.0
"""Height of a model's panel in inches: of one model, of each of several."""
_DOTS = 2.4
_MARGINS = 1.4
_MOST_DOTS = 5000
"""Of those that a vector format draws one by one; more become a picture inside it."""
_LINE, _DEFAULT, _DOT = "#1f5fa8", "#b03a2e", "#6b6b6b"
_RATIOS = (0.1, 4.0)
"""Speeds relative to the default's that the lower panel holds at most; trials beyond lie on its edge."""


def plot_tuning(found: History, path: Path, by: Abscissa = "trials") -> None:
    """Write the picture: a panel of each model's latency, and one of single trials relative to their defaults.

    The same history gives the same bytes with the same version of matplotlib.

    Args:
        found: of the run: :func:`edgevit.tuning.history.history`.
        path: of the file; its suffix says the format: ``.svg``, ``.png`` or ``.pdf``.
        by: what is drawn from left to right.

    Raises:
        UserError: the suffix is another one, there is nothing to draw, or the file cannot be written.
        EnvironmentFailure: matplotlib is not installed.
    """
    from edgevit.files import staged_file

    options = check_plot(path)
    if not found.points:
        raise UserError(
            "there is no trial to draw.",
            where=str(path),
            advice="Name a log that holds measurements of these models on this target.",
        )
    with _settings(), staged_file(path) as aside:
        _figure(found, by).savefig(aside, format=path.suffix[1:].lower(), **options)


def check_plot(path: Path) -> dict[str, Any]:
    """What a file of this name is written with; to be asked before a long run, which would end without its picture.

    Raises:
        UserError: the suffix is none of :data:`SUFFIXES`.
        EnvironmentFailure: matplotlib is not installed.
    """
    options = SUFFIXES.get(path.suffix.lower())
    if options is None:
        raise UserError(
            f"{path.suffix or 'no suffix'} is no format of pictures that edgevit writes.",
            where=str(path),
            advice=f"End the name in {', '.join(SUFFIXES)}.",
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise EnvironmentFailure(
            "matplotlib, which draws plots, is not installed.",
            where=str(path),
            advice="Install it with 'pip install edgevit[plot]' or 'pip install matplotlib'.",
        ) from error
    return options


@contextmanager
def _settings() -> Iterator[None]:
    """Matplotlib's own settings, whatever the user's are, and no complaints of characters that a font lacks."""
    import matplotlib

    settings: dict[Any, Any] = {
        "svg.hashsalt": "edgevit",
        "text.parse_math": False,  # names of models may hold dollar signs
        "font.size": 11,
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e4e4e4",
        "axes.axisbelow": True,
    }
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _figure(found: History, by: Abscissa) -> Figure:
    from matplotlib.figure import Figure

    models = [model for model, total in found.before.items() if total]
    height = _PANEL if len(models) == 1 else _PANELS
    heights = [*(height for _ in models), _DOTS]
    figure = Figure(figsize=(_WIDTH, sum(heights) + _MARGINS), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    places = [point.trial if by == "trials" else point.minutes for point in found.points]
    for model, axes in zip(models, panels[:-1], strict=True):
        _draw_model(axes, found, model, places)
    _draw_trials(panels[-1], found, places)
    panels[-1].set_xlabel("trials that gave a latency" if by == "trials" else "minutes since the first trial")
    panels[-1].set_xlim(0, max((1, *places)) * 1.01)
    handles = [*panels[0].get_lines(), *panels[-1].collections]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _draw_model(axes: Axes, found: History, model: str, places: list[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    before = found.before[model]
    totals = [point.totals[model] for point in found.points]
    scale, unit = (1e3, "ms") if before >= 1e-3 else (1e6, "µs")
    axes.plot(
        [0.0, *places],
        [scale * each for each in (before, *totals)],
        drawstyle="steps-post",
        color=_LINE,
        linewidth=2,
        label="best choices so far",
    )
    axes.axhline(scale * before, color=_DEFAULT, linestyle="--", linewidth=1.2, label="every default")
    after = totals[-1]
    title = f"{printable(model)}: {seconds(before)} → {seconds(after)} (×{before / after:.2f})"
    missing = found.missing[model]
    if missing:
        title += f", without {missing} unmeasured {'kernel' if missing == 1 else 'kernels'}"
    axes.set_title(title, loc="left")
    axes.set_ylabel(f"sum of all kernels ({unit})")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    # Room around the curve, even where it is flat.
    low, high = scale * after, scale * before
    margin = 0.08 * (high - low) or 0.01 * high
    axes.set_ylim(low - margin, high + margin)
    axes.ticklabel_format(axis="y", useOffset=False)


def _draw_trials(axes: Axes, found: History, places: list[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    known = [(place, point.ratio) for place, point in zip(places, found.points, strict=True) if point.ratio]
    low, high = _RATIOS
    ratios = [min(high, max(low, ratio)) for _, ratio in known]
    axes.set_yscale("log")
    axes.axhline(1.0, color=_DEFAULT, linestyle="--", linewidth=1.2)
    axes.scatter(
        [place for place, _ in known],
        ratios,
        s=9,
        color=_DOT,
        alpha=0.45,
        linewidths=0,
        label="a single trial",
        rasterized=len(known) > _MOST_DOTS,
    )
    axes.set_ylim(min((0.5, *ratios)) / 1.1, max((1.25, *ratios)) * 1.1)
    axes.set_title("Each trial against its kernel's default: above 1 is faster", loc="left")
    axes.set_ylabel("speed (× default)")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
