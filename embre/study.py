"""A study: its cells, the runs they need, and the table of what came out.

A cell is a value for each axis; it is run once for each seed. Runs are ordinary ones in the
study's folder, so what is done stays done, and the table can be made at any time.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from embre.bootstrap import document_counts, paired_p
from embre.config import (
    ConfigError,
    FinetuneConfig,
    PretrainConfig,
    RunConfig,
    StudyConfig,
    load_config,
)
from embre.corpora import read_documents
from embre.document import Document
from embre.finetune import PREDICTED, RELATION_MODEL, SCORES, digests
from embre.job import CONFIG, LINEAGE, folder_digest
from embre.pretrain import ENCODER
from embre.scoring import METRICS
from embre.study_plot import draw_study
from embre.tally import Tally
from embre.tracking import read_events
from embre.training_corpora import read_annotated, schemas_of

TABLE, RESULTS, PICTURE = "study.md", "study.json", "study.png"
# What a model that learnt one task alone says of the other is no result.
NOT_LEARNT = {"relation": {"pair_novelty", "all"}, "novelty": {"pair_type", "all"}}
TITLES = {"pair": "pair", "pair_type": "+ type", "pair_novelty": "+ novelty", "all": "all"}


class Run(NamedTuple):
    """A run of a study: `pretrain` or `finetune`, and its config."""

    kind: str
    config: RunConfig


@dataclass(frozen=True, slots=True)
class Cell:
    """A value for each axis."""

    values: tuple[tuple[str, str], ...]

    def __getitem__(self, axis: str) -> str:
        return dict(self.values)[axis]

    def but(self, axis: str, value: str) -> "Cell":
        """The cell with another value on one axis."""
        return Cell(tuple((a, value if a == axis else v) for a, v in self.values))

    def __str__(self) -> str:
        return ".".join(value for _, value in self.values)


@dataclass(frozen=True, slots=True)
class Result:
    """The finished runs of a cell: by metric the counts (N, D, 3) of N seeds and D documents, and
    the minutes (N,) that each took."""

    counts: dict[str, np.ndarray]
    f1: dict[str, np.ndarray]
    minutes: np.ndarray


def cells(study: StudyConfig) -> list[Cell]:
    """In the order of the parts, each once."""
    found: dict[Cell, None] = {}
    for part in study.parts:
        values = [part.get(axis, known[:1]) for axis, known in study.values.items()]
        for chosen in product(*values):
            found[Cell(tuple(zip(study.values, chosen, strict=True)))] = None
    return list(found)


def pretraining_runs(study: StudyConfig) -> list[Run]:
    """The encoders that the cells need and that have to be trained."""
    needed = {cell["backbone"] for cell in cells(study)}
    found = []
    for name, backbone in study.backbones.items():
        if backbone.pretrain is not None and name in needed:
            told = [*study.set_pretraining, *backbone.set, *_place(study, f"pretrain.{name}")]
            found.append(Run("pretrain", load_config(PretrainConfig, backbone.pretrain, told)))
    return found


def finetuning_runs(study: StudyConfig) -> list[Run]:
    """One for each cell and seed. All seeds of a part come before the next part's first."""
    return [
        Run("finetune", finetuning(study, cell, seed))
        for cell in cells(study)
        for seed in study.seeds
    ]


def finetuning(study: StudyConfig, cell: Cell, seed: int) -> FinetuneConfig:
    """The config of one run of a cell.

    Raises ConfigError where the values of the cell do not go together.
    """
    backbone = study.backbones[cell["backbone"]]
    trained = study_folder(study) / _name(study, f"pretrain.{cell['backbone']}") / ENCODER
    told = [
        *study.set,
        *(change for axis in study.axes for change in study.axes[axis][cell[axis]]),
        *_place(study, f"{cell}.s{seed}"),
        f"seed={seed}",
        f"encoder.path={backbone.path or trained}",
    ]
    return load_config(FinetuneConfig, study.corpora[cell["corpus"]], told)


def study_folder(study: StudyConfig) -> Path:
    """Where its runs and its table are."""
    return Path(study.storage) / study.name


def is_done(run: Run) -> bool:
    """Whether a run has left what the study needs of it.

    Raises ConfigError where it was made by another config: the study has changed since.
    """
    folder = Path(run.config.storage) / run.config.name
    known = folder / CONFIG
    if known.exists():
        made_by = load_config(type(run.config), known)
        if made_by.fingerprint() != run.config.fingerprint():
            raise ConfigError(
                f"{run.config.name}: {known} has another config than the study now gives it; give "
                "the study another name, or remove the run's folder"
            )
    if not isinstance(run.config, FinetuneConfig):
        return (folder / ENCODER).exists()
    if not (folder / SCORES).exists():
        return False
    made_of = json.loads((folder / RELATION_MODEL / LINEAGE).read_text())
    backbone = Path(run.config.encoder.path)
    here = {**digests(run.config), "encoder": _digest(backbone, backbone.stat().st_mtime)}
    made_of["encoder"] = made_of["encoder"]["digest"]
    if changed := [name for name, digest in here.items() if made_of.get(name) != digest]:
        raise ConfigError(
            f"{run.config.name}: {' and '.join(changed)} changed since it was run; remove "
            f"{folder}, and the study runs it again"
        )
    return True


@lru_cache(maxsize=64)
def _digest(backbone: Path, _: float) -> str:
    """Read once for all runs of a backbone, as long as its folder stays as it is."""
    return folder_digest(backbone)


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


def _name(study: StudyConfig, run: str) -> str:
    """What a run is called, in MLflow too, where it stands beside those of other studies."""
    return f"{study.name}.{run}"


def _place(study: StudyConfig, run: str) -> list[str]:
    return [f"name={_name(study, run)}", f"storage={study_folder(study)}"]
