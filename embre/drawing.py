"""The style of all plots. Files are PNG; equal numbers give equal bytes."""

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
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # hides the grid behind text


@contextmanager
def axes_of(path: Path, height: float) -> Iterator[Axes]:
    """Yield axes of `height` inches; on exit the plot is saved to `path`."""
    with panels_of(path, height, 1, 1) as (axes,):
        yield axes


@contextmanager
def panels_of(path: Path, height: float, rows: int, columns: int) -> Iterator[list[Axes]]:
    """Yield a grid of axes, row by row; they share the x-axis, and in a row the y-axis."""
    # The default style: a user's matplotlibrc must not change the plots.
    with matplotlib.style.context("default"), matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(7.5, height), dpi=150, layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False).ravel()
        for axes in panels:
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color(QUIET)
            axes.tick_params(which="both", color=QUIET, labelcolor=INK)
        yield panels.tolist()
        figure.savefig(path, format="png", metadata={"Software": None})


def label_numbers(axis: Axis) -> None:
    """Label an axis with `short` numbers."""
    axis.set_major_formatter(FuncFormatter(lambda number, _: short(number)))


def short(number: float) -> str:
    """Format a number: 1200 as `1,200`, 2500000 as `2.5 M`."""
    if number >= 1e9:
        return f"{number / 1e9:g} bn"
    return f"{number / 1e6:g} M" if number >= 1e6 else f"{number:,.0f}"
