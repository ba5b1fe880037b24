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
from embre.scoring import METRICS, SHORT, learnt_metrics
from embre.study import (
    Cell,
    Run,
    cells,
    finetuning,
    is_done,
    pairs_to_compare,
    pretraining_runs,
    study_folder,
)
from embre.study_plot import draw_study
from embre.tally import Tally
from embre.tracking import read_events
from embre.training_corpora import read_annotated, schemas_of

TABLE, RESULTS, PICTURE = "study.md", "study.json", "study.png"


@dataclass(frozen=True, slots=True)
class Result:
    """The finished runs of a cell: the metrics of which it has learnt something, the last the
    strictest; by metric the counts (N, D, 3) of N seeds and D documents and the F1 (N,); and the
    minutes (N,) that each took."""

    metrics: tuple[str, ...]
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


def _result(configs: list[FinetuneConfig], gold: list[Document]) -> Result:
    counts, minutes, f1 = [], [], []
    schema = schemas_of(configs[0].data)[0]
    metrics = learnt_metrics(schema, configs[0].pairs.tasks)
    for config in configs:
        folder = Path(config.storage) / config.name
        predicted = read_documents(folder / PREDICTED, Tally())
        counts.append(document_counts(gold, predicted, not_scored=schema.not_scored))
        scores = json.loads((folder / SCORES).read_text())["dev"]
        f1.append({metric: scores[metric]["f1"] for metric in metrics})
        minutes.append(_minutes(folder))
    return Result(
        metrics,
        {metric: np.stack([run[metric] for run in counts]) for metric in metrics},
        {metric: np.array([run[metric] for run in f1]) for metric in metrics},
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


class Comparison(NamedTuple):
    """A cell against another: the difference of F1 in points and its p-value from a paired
    bootstrap over documents and seeds."""

    cell: Cell
    against: Cell
    metric: str
    points: float
    p: float


def comparisons(study: StudyConfig, found: Mapping[Cell, Result]) -> Iterator[Comparison]:
    """All that the study asks for and whose runs are there."""
    for cell, against in pairs_to_compare(study):
        if cell not in found or against not in found:
            continue
        result, other = found[cell], found[against]
        metric = [m for m in result.metrics if m in other.metrics][-1]
        points = 100 * float(result.f1[metric].mean() - other.f1[metric].mean())
        p = paired_p(result.counts[metric], other.counts[metric])
        yield Comparison(cell, against, metric, points, p)


def write_results(study: StudyConfig) -> Path:
    """The table, its numbers and its picture as things stand; returns the table's path."""
    folder = study_folder(study)
    folder.mkdir(parents=True, exist_ok=True)
    found = results(study)
    compared = list(comparisons(study, found))
    values = {
        "cells": {
            str(cell): {
                "f1": {m: result.f1[m].tolist() for m in result.metrics},
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
    strictest = {cell: (result.metrics[-1], result.f1) for cell, result in found.items()}
    drawn = {f"{cell}, {SHORT[metric]}": f1[metric] for cell, (metric, f1) in strictest.items()}
    draw_study(folder / PICTURE, drawn)
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
    yield "| " + " | ".join([*axes, "seeds", *SHORT.values(), "minutes a run"]) + " |"
    yield "|" + "---|" * (len(axes) + len(SHORT) + 2)
    for cell, result in found.items():
        scores = [_mean_sd(100 * result.f1[m]) if m in result.metrics else "–" for m in METRICS]
        row = [*(value for _, value in cell.values), str(len(result.minutes)), *scores]
        yield "| " + " | ".join([*row, f"{result.minutes.mean():.1f}"]) + " |"
    yield ""
    yield "| this | against that | in the cell | F1 of | difference in points | p |"
    yield "|---|---|---|---|---|---|"
    for c in compared:
        differ = [axis for axis in axes if c.cell[axis] != c.against[axis]]
        sides = [", ".join(side[axis] for axis in differ) for side in (c.cell, c.against)]
        row = [*sides, str(c.cell), SHORT[c.metric], f"{c.points:+.1f}", f"{c.p:.3f}"]
        yield "| " + " | ".join(row) + " |"
    yield ""
    yield (
        "p: paired bootstrap over documents and seeds of fine-tuning. One of twenty comparisons of "
        "equal systems has p below .05."
    )
    if pretraining_runs(study):
        yield "Each encoder was pretrained once: p says nothing of another pretraining."
    yield ""
    missing = [str(cell) for cell in wanted if cell not in found]
    partly = [str(c) for c, r in found.items() if len(r.minutes) < len(study.seeds)]
    yield f"Not run: {', '.join(missing) or 'none'}."
    yield f"Not with all {len(study.seeds)} seeds: {', '.join(partly) or 'none'}."


def _mean_sd(values: np.ndarray) -> str:
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")
