"""Tables of scores for a terminal."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from embre.evaluation.scoring import TITLES, Score
from embre.finetune import SCORES
from embre.tally import Tally


def dropped_lines(lines: Sequence[str]) -> Iterator[RenderableType]:
    """Yield the lines of a tally under a heading; nothing without lines."""
    if lines:
        yield "dropped, by reason:"
        yield from map(Text, lines)


def evaluation_table(
    scores: Mapping[str, Score], intervals: Mapping[str, tuple[float, float]]
) -> Table:
    """The four metrics of an evaluation with 95 % intervals of F1."""
    shown = {metric: f"{low:.3f}-{high:.3f}" for metric, (low, high) in intervals.items()}
    return _table({metric: score.to_json() for metric, score in scores.items()}, {"95 %": shown})


def comparison_table(differences: Mapping[str, tuple[float, float, float]]) -> Table:
    """F1 of two systems by metric, their difference and its p-value."""
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    for name in ("F1", "other F1", "difference", "p (over documents alone)"):
        table.add_column(name, justify="right")
    for metric, (f1, other, p) in differences.items():
        numbers = (f"{f1:.4f}", f"{other:.4f}", f"{f1 - other:+.4f}", f"{p:.4f}")
        table.add_row(TITLES[metric], *numbers)
    return table


def scores_table(folder: Path) -> Table:
    """Scores of a fine-tuning run by metric, beside the floor: the F1 of a trivial system."""
    scores = json.loads((folder / SCORES).read_text())
    floor = {metric: f"{values['f1']:.4f}" for metric, values in scores["floor"].items()}
    return _table(scores["dev"], {"floor F1": floor})


def dropped_in_run(folder: Path) -> list[str]:
    """What a fine-tuning run dropped: a line for each reason and file."""
    dropped = json.loads((folder / SCORES).read_text())["dropped"]
    counts = {f"{why} in {file}": n for file, whys in dropped.items() for why, n in whys.items()}
    return Tally(Counter(counts)).lines()


def _table(scores: Mapping[str, Any], more: Mapping[str, Mapping[str, str]]) -> Table:
    """Scores by metric, with further columns by heading."""
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    for name in ["tp", "fp", "fn", "precision", "recall", "F1", *more]:
        table.add_column(name, justify="right")
    for metric, values in scores.items():
        counts = [f"{values[key]:,}" for key in ("tp", "fp", "fn")]
        rates = [f"{values[key]:.4f}" for key in ("precision", "recall", "f1")]
        table.add_row(
            TITLES[metric], *counts, *rates, *(column[metric] for column in more.values())
        )
    return table
