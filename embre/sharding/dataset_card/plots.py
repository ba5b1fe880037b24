"""The plots of a dataset card."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator, NullFormatter

from embre.drawing import PAPER, QUIET, RULE, SOFT, STRONG, TYPE_COLOURS, axes_of, label_numbers
from embre.shards.statistics import LENGTH_BOUNDS, ShardStatistics

MAX_POINTS = 200  # per line; millions of ranks would look the same
BERT_TOKENS = 512


def plot_lengths(path: Path, statistics: ShardStatistics) -> None:
    """Plot a histogram of document lengths in tokens."""
    counts = np.array(statistics.documents_by_length)
    used = np.flatnonzero(counts)
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
    edges = np.append(LENGTH_BOUNDS, LENGTH_BOUNDS[-1] * 2)[first : last + 2]
    with axes_of(path, 3.2) as axes:
        axes.stairs(counts[first : last + 1], edges, fill=True, color=STRONG)
        axes.set_xscale("log")
        axes.set_ylim(0, max(counts.max(), 1) * 1.15)  # room for the label of the line
        if edges[0] < BERT_TOKENS < edges[-1]:
            axes.axvline(BERT_TOKENS, color=QUIET, linestyle=":", linewidth=1)
            label = f" {BERT_TOKENS}"
            axes.text(BERT_TOKENS, counts.max() * 1.07, label, color=QUIET, va="center")
        label_numbers(axes.xaxis)
        axes.set_xlabel("tokens of a document (log scale, three bins an octave)")
        label_numbers(axes.yaxis)
        axes.set_ylabel("documents")
        axes.grid(axis="y", color=RULE)


def plot_mentions(path: Path, statistics: ShardStatistics) -> None:
    """Plot the number of mentions by type, with and without an identifier."""
    names = list(statistics.mentions)
    totals = list(statistics.mentions.values())
    with_identifier = [statistics.normalised[name] for name in names]
    without = [total - count for total, count in zip(totals, with_identifier, strict=True)]
    with axes_of(path, 3.0) as axes:
        axes.barh(names, with_identifier, color=STRONG, label="with an identifier")
        axes.barh(names, without, left=with_identifier, color=SOFT, label="without")
        longest = max(totals, default=0) or 1
        for place, (total, count) in enumerate(zip(totals, with_identifier, strict=True)):
            label = f"{total:,}" + (f", {count / total:.0%} with" if total else "")
            axes.text(total + longest * 0.01, place, label, color=QUIET, va="center", bbox=PAPER)
        axes.set_xlim(0, longest * 1.32)  # room for the label of the longest bar
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(MaxNLocator(6))
        label_numbers(axes.xaxis)
        axes.set_xlabel("mentions")
        axes.grid(axis="x", color=RULE)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)


def plot_concepts(path: Path, counts: Mapping[str, np.ndarray]) -> None:
    """Plot mentions over the rank of the concept; `counts` by type, in descending order."""
    with axes_of(path, 3.8) as axes:
        for name, sorted_counts in counts.items():
            num_concepts = len(sorted_counts)
            if not num_concepts:
                continue
            ranks = np.unique(np.geomspace(1, num_concepts, MAX_POINTS).round().astype(np.int64))
            axes.plot(
                ranks,
                sorted_counts[ranks - 1],
                ".-",
                color=TYPE_COLOURS[name],
                markersize=3,
                label=f"{name} ({num_concepts:,})",
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(left=0.8)
        axes.set_ylim(bottom=0.8)
        for axis in (axes.xaxis, axes.yaxis):
            label_numbers(axis)
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("rank of the concept within its type")
        axes.set_ylabel("mentions of the concept")
        axes.grid(color=RULE)
        if axes.lines:
            axes.legend(
                loc="upper left",
                bbox_to_anchor=(1.01, 1),
                title="type (concepts)",
                frameon=False,
                alignment="left",
            )
