"""The curves of a run as pictures: losses, and on held-out documents how much is right."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes

from embre.dataset_card.plots import INK, QUIET, TYPE_COLOURS, axes_of, label_numbers
from embre.tracking import read_events

LOSSES, ACCURACIES = "losses.png", "accuracies.png"
COLOURS = ("#2b5f8c", "#c16048", "#3b9555", "#866ec5")
IDENTIFIER = "validation/accuracy/identifier"

Points = Mapping[int, float]


def draw_curves(folder: Path) -> list[Path]:
    """Draw what the events of the run in a folder have: no picture without a point.

    Of a step that was done twice the later counts. Dots on the losses are measured on the
    validation split, and so are all accuracies; dotted lines are restarts.
    """
    by_name: dict[str, dict[int, float]] = defaultdict(dict)
    restarts = []
    for event in read_events(folder):
        if event["event"] == "started" and event["step"]:
            restarts.append(event["step"])
        for key, value in event.items():
            if key.startswith(("loss/", "validation/loss/", "validation/accuracy/")):
                by_name[key][event["step"]] = value
    drawn = []
    if losses := [name for name in by_name if name.startswith("loss/")]:
        with axes_of(folder / LOSSES, 3.6) as axes:
            for name, colour in zip(losses, COLOURS, strict=False):
                _line(axes, by_name[name], colour, name.removeprefix("loss/"))
                if measured := sorted(by_name.get(f"validation/{name}", {}).items()):
                    axes.plot(*zip(*measured, strict=True), "o", color=colour, markersize=3)
            _finish(axes, restarts, "loss")
        drawn.append(folder / LOSSES)
    if IDENTIFIER in by_name:
        with axes_of(folder / ACCURACIES, 3.6) as axes:
            for name, colour in TYPE_COLOURS.items():
                if points := by_name.get(f"{IDENTIFIER}/{name}"):
                    _line(axes, points, colour, name)
            _line(axes, by_name[IDENTIFIER], INK, "all", width=2.2)
            _finish(axes, restarts, "hidden mentions identified")
        drawn.append(folder / ACCURACIES)
    return drawn


def _line(axes: Axes, points: Points, colour: str, label: str, width: float = 1.5) -> None:
    at = sorted(points.items())
    marker = "o" if len(at) == 1 else None
    axes.plot(*zip(*at, strict=True), color=colour, label=label, linewidth=width, marker=marker)


def _finish(axes: Axes, restarts: list[int], what: str) -> None:
    for number, step in enumerate(restarts):
        label = "restart" if number == 0 else None
        axes.axvline(step, color=QUIET, linewidth=0.8, linestyle=":", label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel(what, color=INK)
    label_numbers(axes.xaxis)
    axes.legend(frameon=False)
