"""How all our pictures look: PNG files in one style, and the same numbers give the same bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from embre.entity_types import ENTITY_TYPES

INK, QUIET, RULE = "#23272d", "#5c646e", "#e3dfd7"
STRONG, SOFT = "#2b5f8c", "#bcd0e2"
TYPE_COLOURS = {name: row.colour for name, row in ENTITY_TYPES.items()}
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # hides the grid behind words


@contextmanager
def axes_of(path: Path, height: float) -> Iterator[Axes]:
    """Axes in our style; saved under `path` afterwards."""
    with panels_of(path, height, 1, 1) as (axes,):
        yield axes


@contextmanager
def panels_of(path: Path, height: float, rows: int, columns: int) -> Iterator[list[Axes]]:
    """The same of several axes, row by row, which share what is across, and in a row what is up."""
    # Whatever a user's own matplotlibrc says, pictures stay the same.
    with matplotlib.style.context("default"), matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(7.5, height), dpi=150, layout="constrained")
        found = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False).ravel()
        for axes in found:
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color(QUIET)
            axes.tick_params(which="both", color=QUIET, labelcolor=INK)
        yield found.tolist()
        figure.savefig(path, format="png", metadata={"Software": None})


def label_numbers(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda number, _: short(number)))


def short(number: float) -> str:
    """1200 → 1,200; 2500000 → 2.5 M"""
    if number >= 1e9:
        return f"{number / 1e9:g} bn"
    return f"{number / 1e6:g} M" if number >= 1e6 else f"{number:,.0f}"
