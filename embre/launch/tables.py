"""Tables of figures for a terminal."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from embre.finetune import SCORES, table
from embre.scoring import Score
from embre.tally import Tally

NAMES = {
    "pair": "entity pair",
    "pair_type": "pair + relation type",
    "pair_novelty": "pair + novelty",
    "all": "all (pair + type + novelty)",
}


def evaluation_table(scores: Mapping[str, Score]) -> Table:
    """The four metrics of an evaluation."""
    return _table(table(dict(scores)), None)


def scores_table(folder: Path) -> Table:
    """The four metrics of a fine-tuning run beside the floor that needs no learning."""
    values = json.loads((folder / SCORES).read_text())
    return _table(values["dev"], values["floor"])


def not_used(folder: Path) -> list[str]:
    """What a fine-tuning run could not learn from or left out, a line for each reason."""
    return Tally(Counter(json.loads((folder / SCORES).read_text())["not_used"])).lines()


def _table(scores: Mapping[str, Any], lowest: Mapping[str, Any] | None) -> Table:
    found = Table(box=None, pad_edge=False)
    found.add_column("metric")
    columns = ["tp", "fp", "fn", "precision", "recall", "F1"]
    for name in [*columns, *(["floor F1"] if lowest else [])]:
        found.add_column(name, justify="right")
    for metric, values in scores.items():
        counts = [f"{values[key]:,}" for key in ("tp", "fp", "fn")]
        rates = [f"{values[key]:.4f}" for key in ("precision", "recall", "f1")]
        under = [f"{lowest[metric]['f1']:.4f}"] if lowest else []
        found.add_row(NAMES[metric], *counts, *rates, *under)
    return found
