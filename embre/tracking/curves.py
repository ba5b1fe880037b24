"""Plots of a run: its losses, and its accuracies on the validation split."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from embre.drawing import (
    INK,
    QUIET,
    RULE,
    TYPE_COLOURS,
    axes_of,
    label_numbers,
    panels_of,
)
from embre.model.identifier_scores import ALL
from embre.tracking import read_events

LOSSES, ACCURACIES = "losses.png", "accuracies.png"
COLOURS = ("#2b5f8c", "#c16048", "#3b9555", "#866ec5")
FREQUENCY_COLOURS = {"head": "#12395b", "middle": "#4a86b8", "tail": "#9dbfdd"}
RESTART = "restart"
TOP_1, MRR = "accuracy/identifier", "mrr/identifier"
PANEL_INCHES = 2.1

Points = Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of the plot of accuracies; `lines` are label, name in events, and colour."""

    title: str
    lines: Sequence[tuple[str, str, str]]


def _by_group(title: str, score: str, colours: Mapping[str, str]) -> Panel:
    groups = [(name, f"{score}/{name}", colour) for name, colour in colours.items()]
    return Panel(title, [*groups, (ALL, score, INK)])


PANELS = (
    Panel(
        "tokens and types: accuracy",
        [("token", "accuracy/token", COLOURS[0]), ("type", "accuracy/type", COLOURS[1])],
    ),
    Panel("identifiers: top-1 and MRR", [("top-1", TOP_1, COLOURS[2]), ("MRR", MRR, COLOURS[3])]),
    _by_group("identifiers by type: top-1", TOP_1, TYPE_COLOURS),
    _by_group("identifiers by type: MRR", MRR, TYPE_COLOURS),
    _by_group("identifiers by frequency: top-1", TOP_1, FREQUENCY_COLOURS),
    _by_group("identifiers by frequency: MRR", MRR, FREQUENCY_COLOURS),
)


def draw_curves(folder: Path) -> list[Path]:
    """Draw the plots for which the events of the run in `folder` have points; return their paths.

    A repeated step counts as in its last execution. Dots on the losses, and all accuracies, are
    those of the validation split; dotted lines are restarts.
    """
    by_name: dict[str, dict[int, float]] = defaultdict(dict)
    restarts = []
    for event in read_events(folder):
        if event["event"] == "started" and event["step"]:
            restarts.append(event["step"])
        for key, value in event.items():
            if key.startswith(("loss/", "validation/")):
                by_name[key][event["step"]] = value
    drawn = []
    if losses := [name for name in by_name if name.startswith("loss/")]:
        _draw_losses(folder / LOSSES, {name: by_name[name] for name in losses}, by_name, restarts)
        drawn.append(folder / LOSSES)
    measured = {name.removeprefix("validation/"): points for name, points in by_name.items()}
    if panels := [p for p in PANELS if any(name in measured for _, name, _ in p.lines)]:
        _draw_accuracies(folder / ACCURACIES, panels, measured, restarts)
        drawn.append(folder / ACCURACIES)
    return drawn


def _draw_losses(
    path: Path, losses: Mapping[str, Points], by_name: Mapping[str, Points], restarts: list[int]
) -> None:
    with axes_of(path, 3.6) as axes:
        for (name, points), colour in zip(losses.items(), COLOURS, strict=False):
            _line(axes, points, colour, name.removeprefix("loss/"))
            if validation := sorted(by_name.get(f"validation/{name}", {}).items()):
                axes.plot(*zip(*validation, strict=True), "o", color=colour, markersize=3)
        _finish(axes, restarts)
        axes.set_xlabel("step", color=INK)
        axes.set_ylabel("loss; dots: validation", color=INK)
        axes.legend(frameon=False)


def _draw_accuracies(
    path: Path, panels: Sequence[Panel], measured: Mapping[str, Points], restarts: list[int]
) -> None:
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with panels_of(path, PANEL_INCHES * rows + 0.4, rows, columns) as grid:
        for axes, panel in zip(grid, panels, strict=False):
            for label, name, colour in panel.lines:
                if points := measured.get(name):
                    _line(axes, points, colour, label, width=2.2 if label == ALL else 1.5)
            axes.set_title(panel.title, loc="left", color=INK, fontsize=9)
        for axes in grid:
            _finish(axes, restarts)
        for axes in grid[-columns:]:
            axes.set_xlabel("step", color=INK)
        for first in range(0, len(grid), columns):
            _legend(grid[first : first + columns])


def _legend(row: Sequence[Axes]) -> None:
    """Draw one legend beside a row of panels, which share most of their lines."""
    pairs = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in row]
    by_label = {label: handle for panel in pairs for handle, label in panel}
    if RESTART in by_label:
        by_label[RESTART] = by_label.pop(RESTART)  # below the lines of all panels
    row[-1].legend(
        by_label.values(),
        by_label.keys(),
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        frameon=False,
    )


def _line(axes: Axes, points: Points, colour: str, label: str, width: float = 1.5) -> None:
    at = sorted(points.items())
    marker = "o" if len(at) == 1 else None
    axes.plot(*zip(*at, strict=True), color=colour, label=label, linewidth=width, marker=marker)


def _finish(axes: Axes, restarts: list[int]) -> None:
    for number, step in enumerate(restarts):
        label = RESTART if number == 0 else None
        axes.axvline(step, color=QUIET, linewidth=0.8, linestyle=":", label=label)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=RULE)
    label_numbers(axes.xaxis)
