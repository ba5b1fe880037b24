"""What came out of a study: its runs read back, compared, and written as a table.

Shapes: N seeds that are done, D held-out documents.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from embre.bootstrap import document_counts, paired_p
from embre.config import FinetuneConfig, StudyConfig
from embre.corpora import read_documents
from embre.document import Document
from embre.finetune import PREDICTED, SCORES
from embre.scoring import METRICS
from embre.study import Cell, Run, cells, finetuning, is_done, study_folder
from embre.study_plot import draw_study
from embre.tally import Tally
from embre.tracking import read_events
from embre.training_corpora import read_annotated, schemas_of

TABLE, RESULTS, PICTURE = "study.md", "study.json", "study.png"
# What a model that learnt one task alone says of the other is no result.
NOT_LEARNT = {"relation": {"pair_novelty", "all"}, "novelty": {"pair_type", "all"}}
TITLES = {"pair": "pair", "pair_type": "+ type", "pair_novelty": "+ novelty", "all": "all"}


@dataclass(frozen=True, slots=True)
class Result:
    """The finished runs of a cell: by metric the counts (N, D, 3) of N seeds and D documents, and
    the minutes (N,) that each took."""

    counts: dict[str, np.ndarray]
    f1: dict[str, np.ndarray]
    minutes: np.ndarray


def results(study: StudyConfig) -> dict[Cell, Result]:
    """What is there so far, by cell; a cell without a finished run is left out."""
    gold: dict[tuple[str, str], list[Document]] = {}
    found = {}
    for cell in cells(study):
        configs = [finetuning(study, cell, seed) for seed in study.seeds]
        done = [config for config in configs if is_done(Run("finetune", config))]
        if done:
            data = done[0].data
            known = data.dev, data.corpus.model_dump_json()
            if known not in gold:  # in the words of the corpus, as the runs were scored
                gold[known] = read_annotated(data.dev, schemas_of(data)[0], Tally())
            found[cell] = _result(done, gold[known])
    return found


def _result(configs: Iterable[FinetuneConfig], gold: list[Document]) -> Result:
    counts, minutes, f1 = [], [], []
    for config in configs:
        folder = Path(config.storage) / config.name
        predicted = read_documents(folder / PREDICTED, Tally())
        schema = schemas_of(config.data)[0]
        counts.append(document_counts(gold, predicted, not_scored=schema.not_scored))
        scores = json.loads((folder / SCORES).read_text())["dev"]
        f1.append({metric: scores[metric]["f1"] for metric in METRICS})
        minutes.append(_minutes(folder))
    return Result(
        {metric: np.stack([run[metric] for run in counts]) for metric in METRICS},
        {metric: np.array([run[metric] for run in f1]) for metric in METRICS},
        np.array(minutes),
    )


def _minutes(folder: Path) -> float:
    """From the first to the last event of each attempt; not what lies between two."""
    seconds, before = 0.0, None
    for event in read_events(folder):
        if before is not None and event["event"] != "started":
            seconds += event["time"] - before
        before = event["time"]
    return seconds / 60


def shown_metrics(study: StudyConfig, cell: Cell) -> list[str]:
    """The metrics that a cell has learnt something of."""
    config = finetuning(study, cell, study.seeds[0])
    lacking = set(NOT_LEARNT.get(config.pairs.tasks, ()))
    if not schemas_of(config.data)[0].novelty:
        lacking |= {"pair_novelty", "all"}
    return [metric for metric in METRICS if metric not in lacking]


class Comparison(NamedTuple):
    """A cell against the one that has the first value of an axis: the difference of F1 in points
    and its p-value from a paired bootstrap over documents and seeds."""

    axis: str
    cell: Cell
    against: Cell
    metric: str
    points: float
    p: float


def comparisons(study: StudyConfig, found: Mapping[Cell, Result]) -> Iterator[Comparison]:
    """Every cell beside each that differs from it in one axis only, that having its first value."""
    for axis, values in study.values.items():
        if axis == "corpus":  # scores of two corpora have nothing to do with each other
            continue
        for cell, result in found.items():
            against = cell.but(axis, values[0])
            if cell[axis] == values[0] or against not in found:
                continue
            common = [m for m in shown_metrics(study, cell) if m in shown_metrics(study, against)]
            metric = common[-1]  # the strictest that both have learnt
            other = found[against]
            points = 100 * float(result.f1[metric].mean() - other.f1[metric].mean())
            p = paired_p(result.counts[metric], other.counts[metric])
            yield Comparison(axis, cell, against, metric, points, p)


def write_results(study: StudyConfig) -> Path:
    """The table, its numbers and its picture as things stand; returns the table's path."""
    folder = study_folder(study)
    folder.mkdir(parents=True, exist_ok=True)
    found = results(study)
    compared = list(comparisons(study, found))
    values = {
        "cells": {
            str(cell): {
                "f1": {m: result.f1[m].tolist() for m in shown_metrics(study, cell)},
                "minutes": result.minutes.round(2).tolist(),
            }
            for cell, result in found.items()
        },
        "comparisons": [
            {**c._asdict(), "cell": str(c.cell), "against": str(c.against)} for c in compared
        ],
    }
    (folder / RESULTS).write_text(json.dumps(values, indent=1))
    (folder / TABLE).write_text("\n".join(_table(study, found, compared)) + "\n")
    strictest = {cell: shown_metrics(study, cell)[-1] for cell in found}
    draw_study(
        folder / PICTURE,
        {f"{c}, {TITLES[m]}": found[c].f1[m] for c, m in strictest.items()},
    )
    return folder / TABLE


def _table(
    study: StudyConfig, found: Mapping[Cell, Result], compared: Iterable[Comparison]
) -> Iterator[str]:
    axes = list(study.values)
    wanted = cells(study)
    yield f"# {study.name}"
    yield ""
    yield (
        "F1 on the held-out documents in points, mean ± standard deviation over the seeds that are "
        "done. Thresholds are cross-fitted: each document is decided by others."
    )
    yield ""
    yield "| " + " | ".join([*axes, "seeds", *TITLES.values(), "minutes a run"]) + " |"
    yield "|" + "---|" * (len(axes) + len(TITLES) + 2)
    for cell, result in found.items():
        shown = shown_metrics(study, cell)
        scores = [_mean_sd(100 * result.f1[m]) if m in shown else "–" for m in METRICS]
        row = [*(value for _, value in cell.values), str(len(result.minutes)), *scores]
        yield "| " + " | ".join([*row, f"{result.minutes.mean():.1f}"]) + " |"
    yield ""
    yield "| axis | cell | against | F1 of | difference in points | p |"
    yield "|---|---|---|---|---|---|"
    for c in compared:
        what = [c.axis, str(c.cell), c.against[c.axis], TITLES[c.metric]]
        yield "| " + " | ".join([*what, f"{c.points:+.1f}", f"{c.p:.3f}"]) + " |"
    yield ""
    missing = [str(cell) for cell in wanted if cell not in found]
    partly = [str(c) for c, r in found.items() if len(r.minutes) < len(study.seeds)]
    yield f"Not run: {', '.join(missing) or 'none'}."
    yield f"Not with all {len(study.seeds)} seeds: {', '.join(partly) or 'none'}."


def _mean_sd(values: np.ndarray) -> str:
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")
