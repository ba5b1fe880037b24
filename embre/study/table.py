"""The results of a study written as a Markdown table, as numbers and as a plot."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from embre.config import StudyConfig
from embre.evaluation.scoring import METRICS, SHORT
from embre.study.cells import Cell, cells, study_folder
from embre.study.plot import draw_study
from embre.study.results import (
    Comparison,
    Pretraining,
    Result,
    comparisons,
    pretrainings,
    results,
)

TABLE, RESULTS, PICTURE = "study.md", "study.json", "study.png"
MEASURES = {
    "related: AP": ("related", "average_precision"),
    "type: accuracy": ("type", "accuracy"),
    "type: log-loss": ("type", "log_loss"),
    "novelty: AUC": ("novelty", "auc"),
}


def write_results(study: StudyConfig) -> Path:
    """Write the table, its numbers and its plot from the runs so far; return the table's path."""
    folder = study_folder(study)
    folder.mkdir(parents=True, exist_ok=True)
    found = results(study)
    compared, trained = list(comparisons(study, found)), pretrainings(study)
    values = {
        "cells": {
            str(cell): {
                "f1": {metric: f1.tolist() for metric, f1 in result.f1.items()},
                "discrimination": result.discrimination,
                "minutes": result.minutes.round(2).tolist(),
            }
            for cell, result in found.items()
        },
        "encoders": {name: one._asdict() for name, one in trained.items()},
        "comparisons": [
            {**c._asdict(), "cell": str(c.cell), "against": str(c.against)} for c in compared
        ],
    }
    (folder / RESULTS).write_text(json.dumps(values, indent=1))
    (folder / TABLE).write_text(_page(study, found, compared, trained))
    strictest = {cell: list(result.f1.items())[-1] for cell, result in found.items()}
    drawn = {f"{cell}, {SHORT[metric]}": f1 for cell, (metric, f1) in strictest.items()}
    draw_study(folder / PICTURE, drawn)
    return folder / TABLE


def _page(
    study: StudyConfig,
    found: Mapping[Cell, Result],
    compared: Iterable[Comparison],
    trained: Mapping[str, Pretraining],
) -> str:
    axes = list(study.values)
    blocks = [
        f"# {study.name}",
        "F1 on the held-out documents in points, mean ± standard deviation over finished seeds. "
        "Thresholds are chosen separately for each column, so that runs of one task can be "
        "compared, and cross-fitted: those for a document are chosen on others.",
        _table(
            [*axes, "seeds", *SHORT.values(), "minutes a run"],
            (_row_of_cell(*one) for one in found.items()),
        ),
        "Discrimination before calibration and thresholds: average precision (AP) of related pairs "
        "among all candidates; accuracy and log-loss of the types of related pairs; area under "
        "the ROC curve (AUC) of their novelty.",
        _table([*axes, *MEASURES], (_row_of_measures(*one) for one in found.items())),
    ]
    if trained:
        rows = [(n, f"{p.minutes:.1f}", f"{p.tokens / 1e6:.1f}") for n, p in trained.items()]
        blocks += [
            _table(("encoder", "minutes of pretraining", "million tokens read"), rows),
            "Each was pretrained once: p below ignores the variance over pretraining runs.",
        ]
    heads = ("this", "against that", "in the cell", "F1 of", "difference in points", "p")
    blocks += [
        _table(heads, map(_row_of_comparison, compared)),
        "p: paired bootstrap over documents and fine-tuning seeds. One in twenty comparisons of "
        "equal systems has p below .05. There is no p with one seed: two seeds of one system "
        "may differ as much.",
        _unfinished(study, found),
    ]
    return "\n\n".join(blocks) + "\n"


def _unfinished(study: StudyConfig, found: Mapping[Cell, Result]) -> str:
    missing = [str(cell) for cell in cells(study) if cell not in found]
    partly = [str(cell) for cell, one in found.items() if len(one.minutes) < len(study.seeds)]
    return (
        f"Not run: {', '.join(missing) or 'none'}.\n"
        f"Not with all {len(study.seeds)} seeds: {', '.join(partly) or 'none'}."
    )


def _row_of_cell(cell: Cell, result: Result) -> list[str]:
    f1 = result.f1
    scores = [_mean_sd(100 * f1[metric]) if metric in f1 else "–" for metric in METRICS]
    values = [value for _, value in cell.values]
    return [*values, str(len(result.minutes)), *scores, f"{result.minutes.mean():.1f}"]


def _row_of_measures(cell: Cell, result: Result) -> list[str]:
    columns = [result.measure_of(*key) for key in MEASURES.values()]
    return [
        *(value for _, value in cell.values),
        *("–" if values is None else _mean_sd(values, 3) for values in columns),
    ]


def _row_of_comparison(c: Comparison) -> list[str]:
    differ = [axis for axis, value in c.cell.values if c.against[axis] != value]
    sides = [", ".join(side[axis] for axis in differ) for side in (c.cell, c.against)]
    return [
        *sides,
        str(c.cell),
        SHORT[c.metric],
        f"{c.points:+.1f}",
        "–" if c.p is None else f"{c.p:.3f}",
    ]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean_sd(values: np.ndarray, digits: int = 1) -> str:
    spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"
