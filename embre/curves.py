"""The curves of a run as one picture: losses, and where it was started again."""

from collections import defaultdict
from pathlib import Path

from embre.dataset_card.plots import INK, QUIET, axes_of, label_numbers
from embre.tracking import read_events

CURVES = "curves.png"
COLOURS = ("#2b5f8c", "#c16048", "#3b9555", "#866ec5")


def draw_curves(folder: Path) -> Path | None:
    """Draw `curves.png` from the events of the run in a folder; None where there is no step yet.

    Of a step that was done twice the later counts. Dots are measured on the validation split.
    """
    by_name: dict[str, dict[int, float]] = defaultdict(dict)
    restarts = []
    for event in read_events(folder):
        if event["event"] == "started" and event["step"]:
            restarts.append(event["step"])
        for key, value in event.items():
            if key.startswith(("loss/", "validation/loss/")):
                by_name[key][event["step"]] = value
    trained = [name for name in by_name if name.startswith("loss/")]
    if not trained:
        return None
    with axes_of(folder / CURVES, 3.6) as axes:
        for name, colour in zip(trained, COLOURS, strict=False):
            points = sorted(by_name[name].items())
            axes.plot(*zip(*points, strict=True), color=colour, label=name.removeprefix("loss/"))
            if measured := sorted(by_name.get(f"validation/{name}", {}).items()):
                axes.plot(*zip(*measured, strict=True), "o", color=colour, markersize=3)
        for number, step in enumerate(restarts):
            label = "restart" if number == 0 else None
            axes.axvline(step, color=QUIET, linewidth=0.8, linestyle=":", label=label)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("step", color=INK)
        axes.set_ylabel("loss", color=INK)
        label_numbers(axes.xaxis)
        axes.legend(frameon=False)
    return folder / CURVES
