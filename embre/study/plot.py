"""The plot of a study: every run as a dot, the mean of every cell."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from embre.drawing import INK, RULE, STRONG, axes_of


def draw_study(path: Path, f1_by_cell: Mapping[str, np.ndarray]) -> None:
    """Write a PNG of F1, cells from top to bottom in order; nothing if there is no cell."""
    if not f1_by_cell:
        return
    with axes_of(path, 1.2 + 0.32 * len(f1_by_cell)) as axes:
        for row, f1 in enumerate(f1_by_cell.values()):
            axes.plot(100 * f1, np.full(len(f1), row), "o", color=STRONG, alpha=0.4, markersize=5)
            axes.plot(100 * f1.mean(), row, "|", color=INK, markersize=14, markeredgewidth=2)
        axes.set_yticks(range(len(f1_by_cell)), list(f1_by_cell))
        axes.invert_yaxis()
        axes.set_xlabel("F1 on held-out documents, strictest learnt metric, in points", color=INK)
        axes.grid(axis="x", color=RULE)
        axes.spines["left"].set_visible(False)
