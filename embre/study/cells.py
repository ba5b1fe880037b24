"""A study: its cells, and the runs they need.

A cell is a value for each axis, run once per seed. Runs are ordinary ones in the study's folder, so
a study can be resumed, and its table can be made at any time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

from embre.checkpoints.folder import has_checkpoints
from embre.config import (
    ConfigError,
    FinetuneConfig,
    PretrainConfig,
    RunConfig,
    StudyConfig,
    is_another,
    load_config,
)
from embre.finetune import COUNTS, RELATION_MODEL, SCORES, digests
from embre.pretrain import ENCODER
from embre.provenance import CONFIG, folder_digest, read_lineage


class Run(NamedTuple):
    """A run of a study: `pretrain` or `finetune`, and its config."""

    kind: str
    config: RunConfig


@dataclass(frozen=True, slots=True)
class Cell:
    """A value for each axis, corpus and backbone first; `firsts`: the first value of each axis."""

    values: tuple[tuple[str, str], ...]
    firsts: tuple[str, ...]

    def __getitem__(self, axis: str) -> str:
        return dict(self.values)[axis]

    def with_values(self, others: Mapping[str, str]) -> "Cell":
        """A copy with other values on some axes."""
        values = tuple((axis, others.get(axis, value)) for axis, value in self.values)
        return Cell(values, self.firsts)

    def __str__(self) -> str:
        """Corpus, backbone and values other than the first of their axis. Runs are named by it, so
        a new axis whose first value changes nothing keeps the names of finished runs."""
        (_, corpus), (_, backbone), *axes = self.values
        pairs = zip(axes, self.firsts[2:], strict=True)
        differ = [f"{axis}-{value}" for (axis, value), first in pairs if value != first]
        return ".".join([corpus, backbone, *differ])


def cells(study: StudyConfig) -> list[Cell]:
    """All cells in the order of the parts, without duplicates."""
    found: dict[Cell, None] = {}
    firsts = tuple(known[0] for known in study.values.values())
    for part in study.parts:
        values = [part.get(axis, known[:1]) for axis, known in study.values.items()]
        for chosen in product(*values):
            found[Cell(tuple(zip(study.values, chosen, strict=True)), firsts)] = None
    return list(found)


def pairs_to_compare(study: StudyConfig) -> list[tuple[Cell, Cell]]:
    """The pairs of cells to compare, as `compare` says, of which both are run."""
    known = cells(study)
    found = []
    for differ in study.compare:
        these = {axis: this for axis, (this, _) in differ.items()}
        those = {axis: that for axis, (_, that) in differ.items()}
        for cell in known:
            against = cell.with_values(those)
            if cell == cell.with_values(these) and against in known:
                found.append((cell, against))
    return found


def pretraining_runs(study: StudyConfig) -> list[Run]:
    """Runs of the encoders that the cells need and that have to be pretrained."""
    needed = {cell["backbone"] for cell in cells(study)}
    found = []
    for name, backbone in study.backbones.items():
        if backbone.pretrain is not None and name in needed:
            place = _name_and_storage(study, f"pretrain.{name}")
            overrides = [*study.set_pretraining, *backbone.set, *place]
            found.append(Run("pretrain", load_config(PretrainConfig, backbone.pretrain, overrides)))
    return found


def finetuning_runs(study: StudyConfig) -> list[Run]:
    """One run per cell and seed, in the order of the cells."""
    return [
        Run("finetune", finetuning(study, cell, seed))
        for cell in cells(study)
        for seed in study.seeds
    ]


def finetuning(study: StudyConfig, cell: Cell, seed: int) -> FinetuneConfig:
    """The config of one run of a cell.

    Raises ConfigError if the values of the cell are incompatible.
    """
    backbone = study.backbones[cell["backbone"]]
    trained = study_folder(study) / _name(study, f"pretrain.{cell['backbone']}") / ENCODER
    overrides = [
        *study.set,
        *(change for axis in study.axes for change in study.axes[axis][cell[axis]]),
        *_name_and_storage(study, f"{cell}.s{seed}"),
        f"seed={seed}",
        f"encoder.path={backbone.path or trained}",
    ]
    return load_config(FinetuneConfig, study.corpora[cell["corpus"]], overrides)


def study_folder(study: StudyConfig) -> Path:
    """The folder of the runs and the table of a study."""
    return Path(study.storage) / study.name


def run_folder(config: RunConfig) -> Path:
    """The folder of a run."""
    return Path(config.storage) / config.name


def is_done(run: Run) -> bool:
    """Whether a run has written the results that the study needs.

    Raises ConfigError if it was made with another config or data, because the study has changed
    since, or if its backbone is gone. The config of a run that has not begun may differ.
    """
    folder = run_folder(run.config)
    results = (SCORES, COUNTS) if isinstance(run.config, FinetuneConfig) else (ENCODER,)
    done = all((folder / name).exists() for name in results)
    if (done or has_checkpoints(folder)) and is_another(run.config, folder / CONFIG):
        raise ConfigError(
            f"{run.config.name}: {folder / CONFIG} has another config than the study now gives "
            "it; give the study another name, or remove the run's folder"
        )
    if not done or not isinstance(run.config, FinetuneConfig):
        return done
    made_of = read_lineage(folder / RELATION_MODEL)
    backbone = Path(run.config.encoder.path)
    if not backbone.is_dir():
        raise ConfigError(
            f"{run.config.name}: its backbone {backbone} does not exist any more, so it cannot be "
            "compared with the run's; restore it"
        )
    here = {**digests(run.config), "encoder": _digest(backbone, backbone.stat().st_mtime)}
    made_of["encoder"] = made_of.get("encoder", {}).get("digest")
    if changed := [name for name, digest in here.items() if made_of.get(name) != digest]:
        raise ConfigError(
            f"{run.config.name}: {' and '.join(changed)} changed since it was run; remove "
            f"{folder}, and the study runs it again"
        )
    return True


@lru_cache(maxsize=64)
def _digest(backbone: Path, _: float) -> str:
    """The folder's digest, computed once for all runs until its mtime changes."""
    return folder_digest(backbone)


def _name(study: StudyConfig, run: str) -> str:
    """The name of a run; unique among studies, because MLflow lists all runs together."""
    return f"{study.name}.{run}"


def _name_and_storage(study: StudyConfig, run: str) -> list[str]:
    return [f"name={_name(study, run)}", f"storage={study_folder(study)}"]
