"""The results of a study: read from its runs, and compared.

Shapes: N finished seeds, D held-out documents.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from embre.config import PretrainConfig, StudyConfig
from embre.evaluation.bootstrap import f1_of, paired_p_value
from embre.evaluation.discrimination import Discrimination
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
)
from embre.tracking import read_events
from embre.tracking.goodput import EARLY


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
