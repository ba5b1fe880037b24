"""Plots of an evaluation."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from embre.drawing import INK, QUIET, RULE, STRONG, axes_of
from embre.evaluation.breakdown import Confusion
from embre.evaluation.precision_recall import Curve
from embre.evaluation.reliability import Reliability
from embre.evaluation.scoring import TITLES

COLOURS = {"pair": "#2b5f8c", "pair_type": "#c16048", "pair_novelty": "#8a5fa8", "all": "#3b9555"}
SAME_F1 = (0.2, 0.4, 0.6, 0.8)
SQUARE_INCHES = 5.2


def plot_curves(
    path: Path, curves: Mapping[str, Curve], points: Mapping[str, tuple[float, float]]
) -> None:
    """Plot precision over recall, with F1 isolines; `points` are the (recall, precision) at the
    chosen thresholds."""
    with axes_of(path, SQUARE_INCHES) as axes:
        _square(axes, "recall", "precision")
        for f1 in SAME_F1:
            recall = np.linspace(f1 / (2 - f1), 1, 200)  # where precision is 1, to the end
            axes.plot(recall, f1 * recall / (2 * recall - f1), color=RULE, linewidth=1)
            axes.text(1.01, f1 / (2 - f1), f"F1 {f1:g}", color=QUIET, va="center", fontsize=8)
        for metric, found in curves.items():
            label = f"{TITLES[metric]} (AP {found.average_precision:.3f})"
            axes.plot(found.recall, found.precision, color=COLOURS[metric], label=label)
            axes.plot(*points[metric], "o", color=COLOURS[metric], markersize=6)
        axes.plot([], [], "o", color=QUIET, label="at the thresholds")
        axes.legend(loc="lower left", facecolor="white", edgecolor="none", framealpha=1)


def plot_reliability(path: Path, found: Reliability) -> None:
    """Plot the share of related pairs over the predicted probability; bars: pairs in each bin."""
    edges = np.linspace(0, 1, len(found.counts) + 1)
    with axes_of(path, SQUARE_INCHES) as axes:
        _square(axes, "probability that the pair is related", "share of related pairs")
        axes.stairs(found.counts / max(found.counts.sum(), 1), edges, fill=True, color=RULE)
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=":")
        used = found.counts > 0
        axes.plot(found.predicted[used], found.observed[used], "o-", color=STRONG)
        axes.text(0.03, 0.95, f"expected calibration error {found.ece:.3f}", color=INK, va="top")
        axes.text(
            0.03, 0.89, f"grey: share of the {found.counts.sum():,} pairs", color=QUIET, va="top"
        )


def plot_confusion(path: Path, found: Confusion) -> None:
    """Plot the pairs by gold and predicted label, shaded by the share of their row."""
    share = found.counts / np.maximum(found.counts.sum(1, keepdims=True), 1)
    names = [label.replace("_", " ") for label in found.labels]
    with axes_of(path, SQUARE_INCHES) as axes:
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1.2)
        for (row, column), count in np.ndenumerate(found.counts):
            if count:
                colour = "white" if share[row, column] > 0.6 else INK
                axes.text(column, row, f"{count:,}", color=colour, ha="center", va="center")
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("predicted", color=INK)
        axes.set_ylabel("gold", color=INK)


def _square(axes: Axes, across: str, up: str) -> None:
    axes.set_aspect("equal")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
