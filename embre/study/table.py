"""The results of a study: read from its runs, compared, and written as a table.

Shapes: N finished seeds, D held-out documents.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from embre.config import PretrainConfig, StudyConfig
from embre.evaluation.bootstrap import f1_of, paired_p_value
from embre.evaluation.discrimination import Discrimination
from embre.evaluation.scoring import METRICS, SHORT
from embre.finetune import COUNTS, SCORES
from embre.study.cells import (
    Cell,
    Run,
    cells,
    finetuning,
    is_done,
    pairs_to_compare,
    pretraining_runs,
    run_folder,
    study_folder,
)
from embre.study.plot import draw_study
from embre.tracking import read_events
from embre.tracking.goodput import EARLY

TABLE, RESULTS, PICTURE = "study.md", "study.json", "study.png"
MEASURES = {
    "related: AP": ("related", "average_precision"),
    "type: accuracy": ("type", "accuracy"),
    "type: log-loss": ("type", "log_loss"),
    "novelty: AUC": ("novelty", "auc"),
}


@dataclass(frozen=True, slots=True)
class Result:
    """The N finished runs of a cell: (N, D, 3) counts by learnt metric, the strictest last, with
    thresholds fitted for that metric; the `discrimination` of each run; (N,) minutes."""

    counts: dict[str, np.ndarray]
    discrimination: list[Discrimination]
    minutes: np.ndarray

    @property
    def f1(self) -> dict[str, np.ndarray]:
        """(N,) F1 of each run, by metric."""
        return {metric: f1_of(found.sum(1)) for metric, found in self.counts.items()}

    def measure_of(self, name: str, measure: str) -> np.ndarray | None:
        """(N,) one measure of discrimination; None if a run lacks it."""
        have = [run[name][measure] for run in self.discrimination if measure in run.get(name, {})]
        return np.array(have) if len(have) == len(self.discrimination) else None


def results(study: StudyConfig) -> dict[Cell, Result]:
    """The results so far, by cell; cells without a finished run are left out."""
    found = {}
    for cell in cells(study):
        configs = [finetuning(study, cell, seed) for seed in study.seeds]
        done = [run_folder(config) for config in configs if is_done(Run("finetune", config))]
        if done:
            counts = [json.loads((folder / COUNTS).read_text()) for folder in done]
            of_metrics = {metric: np.array([run[metric] for run in counts]) for metric in counts[0]}
            measured = [
                json.loads((folder / SCORES).read_text()).get("discrimination", {})
                for folder in done
            ]
            found[cell] = Result(of_metrics, measured, np.array([_minutes(one) for one in done]))
    return found


def _minutes(folder: Path) -> float:
    """Minutes from the start to the last event of each attempt, without the time in between."""
    seconds, before = 0.0, None
    for event in read_events(folder):
        if event["event"] in EARLY:
            continue
        if before is not None and event["event"] != "started":
            seconds += event["time"] - before
        before = event["time"]
    return seconds / 60


class Pretraining(NamedTuple):
    """The cost of an encoder, and the number of tokens it read, counted as full strips."""

    minutes: float
    tokens: int


def pretrainings(study: StudyConfig) -> dict[str, Pretraining]:
    """The cost of the finished encoders, by backbone."""
    found = {}
    for run in filter(is_done, pretraining_runs(study)):
        config = run.config
        assert isinstance(config, PretrainConfig)
        tokens = config.train.steps * config.data.streams * config.data.strip_tokens
        name = config.name.split(".pretrain.")[-1]
        found[name] = Pretraining(_minutes(run_folder(config)), tokens)
    return found


class Comparison(NamedTuple):
    """A cell against another: the difference of F1 in points and its p-value from a paired
    bootstrap over documents and seeds; None if a cell has one seed, because the variance over
    seeds is then unknown."""

    cell: Cell
    against: Cell
    metric: str
    points: float
    p: float | None


def comparisons(study: StudyConfig, found: Mapping[Cell, Result]) -> Iterator[Comparison]:
    """Yield the comparisons of the study whose runs are finished."""
    for cell, against in pairs_to_compare(study):
        if cell not in found or against not in found:
            continue
        result, other = found[cell], found[against]
        metric = [m for m in result.counts if m in other.counts][-1]
        points = 100 * float(result.f1[metric].mean() - other.f1[metric].mean())
        several = min(len(result.minutes), len(other.minutes)) > 1
        p = paired_p_value(result.counts[metric], other.counts[metric]) if several else None
        yield Comparison(cell, against, metric, points, p)


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
    (folder / TABLE).write_text("\n".join(_table(study, found, compared, trained)) + "\n")
    strictest = {cell: list(result.f1.items())[-1] for cell, result in found.items()}
    drawn = {f"{cell}, {SHORT[metric]}": f1 for cell, (metric, f1) in strictest.items()}
    draw_study(folder / PICTURE, drawn)
    return folder / TABLE


def _table(
    study: StudyConfig,
    found: Mapping[Cell, Result],
    compared: Iterable[Comparison],
    trained: Mapping[str, Pretraining],
) -> Iterator[str]:
    axes = list(study.values)
    yield f"# {study.name}"
    yield ""
    yield (
        "F1 on the held-out documents in points, mean ± standard deviation over finished seeds. "
        "Thresholds are chosen separately for each column, so that runs of one task can be "
        "compared, and cross-fitted: those for a document are chosen on others."
    )
    yield ""
    heads = [*axes, "seeds", *SHORT.values(), "minutes a run"]
    yield from _lines(heads, (_row_of_cell(*one) for one in found.items()))
    yield ""
    yield (
        "Discrimination before calibration and thresholds: average precision (AP) of related pairs "
        "among all candidates; accuracy and log-loss of the types of related pairs; area under "
        "the ROC curve (AUC) of their novelty."
    )
    yield ""
    yield from _lines([*axes, *MEASURES], (_row_of_measures(*one) for one in found.items()))
    yield ""
    if trained:
        rows = [(n, f"{p.minutes:.1f}", f"{p.tokens / 1e6:.1f}") for n, p in trained.items()]
        yield from _lines(("encoder", "minutes of pretraining", "million tokens read"), rows)
        yield ""
        yield "Each was pretrained once: p below ignores the variance over pretraining runs."
        yield ""
    heads = ("this", "against that", "in the cell", "F1 of", "difference in points", "p")
    yield from _lines(heads, (_row_of_comparison(c) for c in compared))
    yield ""
    yield (
        "p: paired bootstrap over documents and fine-tuning seeds. One in twenty comparisons of "
        "equal systems has p below .05. There is no p with one seed: two seeds of one system "
        "may differ as much."
    )
    yield ""
    missing = [str(cell) for cell in cells(study) if cell not in found]
    partly = [str(c) for c, r in found.items() if len(r.minutes) < len(study.seeds)]
    yield f"Not run: {', '.join(missing) or 'none'}."
    yield f"Not with all {len(study.seeds)} seeds: {', '.join(partly) or 'none'}."


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


def _lines(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for cells_of_row in (heads, ["---"] * len(heads), *rows):
        yield f"| {' | '.join(cells_of_row)} |"


def _mean_sd(values: np.ndarray, digits: int = 1) -> str:
    spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"
