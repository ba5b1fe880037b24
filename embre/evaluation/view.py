"""The report's view of an evaluation: formatted texts, and plot points in SVG units."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from embre.evaluation.breakdown import Confusion, Groups
from embre.evaluation.evaluate import Evaluation
from embre.evaluation.plots import SAME_F1
from embre.evaluation.reliability import Reliability
from embre.evaluation.scoring import SHORT, TITLES, Score

SIDE = 300  # of a plot, in SVG units
# The measures shown; the others are in evaluation.json.
MEASURES = {
    "average_precision/related": "average precision {value} of related pairs among {pairs}",
    "accuracy/type": "accuracy {value} of the type of {pairs} related pairs",
    "auc/novelty": "area under the ROC curve {value} of the novelty of {pairs}",
}
HUES = {"pair": 250, "pair_type": 35, "pair_novelty": 310, "all": 150}


def evaluation_view(evaluation: Evaluation) -> dict[str, Any]:
    """The variables of the template `evaluation.html.j2`."""
    outcomes = [error.outcome for error in evaluation.errors]
    errors = ", ".join(f"{outcomes.count(o):,} {o}" for o in dict.fromkeys(sorted(outcomes)))
    ticks = [f / 5 for f in range(6)]
    return {
        "scores": [
            {
                "name": TITLES[metric],
                "precision": f"{found.precision:.3f}",
                "recall": f"{found.recall:.3f}",
                "f1": f"{found.f1:.3f}",
                "interval": "{:.3f}–{:.3f}".format(*evaluation.intervals[metric]),
            }
            for metric, found in evaluation.scores.items()
        ],
        "note": f"{evaluation.num_documents:,} documents. 95 %: bootstrap percentile interval of "
        f"F1 over documents. Errors: {errors or 'none'}; use the filters below to see them.",
        "discrimination": [
            MEASURES[f"{measure}/{name}"].format(
                value=f"{value:.3f}", pairs=f"{numbers['pairs']:,}"
            )
            for name, numbers in evaluation.discrimination.items()
            for measure, value in numbers.items()
            if f"{measure}/{name}" in MEASURES
        ],
        "ticks": [{"x": _x(t), "y": _y(t), "label": f"{t:g}"} for t in ticks],
        "same_f1": [_same_f1(f1) for f1 in SAME_F1],
        "curves": [
            {
                "name": TITLES[metric],
                "hue": HUES[metric],
                "points": _points(zip(found.recall, found.precision, strict=True)),
                "x": _x(evaluation.scores[metric].recall),
                "y": _y(evaluation.scores[metric].precision),
                "average_precision": f"{found.average_precision:.3f}",
            }
            for metric, found in evaluation.curves.items()
        ],
        "curves_of": "All candidate pairs."
        if evaluation.of_candidates
        else "Predicted relations only: others have no probability.",
        "reliability": evaluation.reliability and _reliability_view(evaluation.reliability),
        "groups": [_group_view(name, groups) for name, groups in evaluation.groups.items()],
        "confusion": _confusion_view(evaluation.confusion),
    }


def _group_view(name: str, groups: Groups) -> dict[str, Any]:
    metrics = list(next(iter(groups.values()), {}))
    return {
        "name": name,
        "columns": [f"F1 {SHORT[metric]}" for metric in metrics],
        "rows": [_row(group, found) for group, found in groups.items()],
    }


def _row(group: str, found: Mapping[str, Score]) -> dict[str, Any]:
    first = next(iter(found.values()))
    return {
        "name": _plain(group),
        "gold": f"{first.tp + first.fn:,}",
        "predicted": f"{first.tp + first.fp:,}",
        "values": [f"{scores.f1:.3f}" for scores in found.values()],
    }


def _confusion_view(found: Confusion) -> dict[str, Any]:
    totals = np.maximum(found.counts.sum(1), 1)
    return {
        "labels": [_plain(label) for label in found.labels],
        "rows": [
            {
                "name": _plain(label),
                "cells": [
                    {"count": f"{count:,}" if count else "", "share": round(count / total, 3)}
                    for count in row
                ],
            }
            for label, row, total in zip(
                found.labels, found.counts.tolist(), totals.tolist(), strict=True
            )
        ],
    }


def _reliability_view(by_name: Mapping[str, Reliability]) -> dict[str, Any]:
    found = by_name["related"]
    others = {name: other.ece for name, other in by_name.items() if name != "related"}
    width, total = SIDE / len(found.counts), max(int(found.counts.sum()), 1)
    heights = [SIDE * count / total for count in found.counts.tolist()]
    used = np.flatnonzero(found.counts)
    at = [(found.predicted[i], found.observed[i], found.counts[i]) for i in used]
    return {
        "ece": f"{found.ece:.3f}",
        "others": "".join(f", {name} {ece:.3f}" for name, ece in others.items()),
        "bars": [
            {
                "x": round(place * width, 1),
                "y": round(SIDE - height, 1),
                "width": round(width, 1),
                "height": round(height, 1),
                "pairs": f"{count:,}",
            }
            for place, (height, count) in enumerate(
                zip(heights, found.counts.tolist(), strict=True)
            )
        ],
        "points": _points((p, o) for p, o, _ in at),
        "dots": [
            {"x": _x(p), "y": _y(o), "label": f"predicted {p:.2f}, observed {o:.2f}, {n:,} pairs"}
            for p, o, n in at
        ],
    }


def _same_f1(f1: float) -> dict[str, Any]:
    recall = np.linspace(f1 / (2 - f1), 1, 40)
    return {
        "f1": f"{f1:g}",
        "points": _points((r, f1 * r / (2 * r - f1)) for r in recall),
        "y": _y(f1 / (2 - f1)),
    }


def _points(at: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_x(across)},{_y(up)}" for across, up in at)


def _x(value: float) -> float:
    return round(SIDE * float(value), 1)


def _y(value: float) -> float:
    return round(SIDE * (1 - float(value)), 1)


def _plain(name: str) -> str:
    return name.replace("_", " ")
