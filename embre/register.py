"""Registering: a finished run's encoder and relation model → versions in the MLflow registry."""

import json
from dataclasses import dataclass
from pathlib import Path

from embre.finetune import RELATION_MODEL
from embre.pretrain import ENCODER
from embre.tracking.registry import register
from embre.tracking.runs import RUN_FILE, RunHandle

KINDS = (ENCODER, RELATION_MODEL)


@dataclass(frozen=True, slots=True)
class Registered:
    """A version in the registry, and whether this call made it."""

    name: str
    version: str
    kind: str
    new: bool
    uri: str


def register_run(run: Path, name: str, alias: str | None) -> Registered:
    """Register what a run made. The same model is not registered twice.

    Raises FileNotFoundError where the folder is no finished run.
    """
    kind = next((kind for kind in KINDS if (run / kind).is_dir()), None)
    remembered = run / RUN_FILE
    if kind is not None and not remembered.exists():
        raise ValueError(
            f"{run}: MLflow did not answer when this run was started, so it has no MLflow run; "
            "start the same command again, which only exports, and register then"
        )
    if kind is None:
        raise FileNotFoundError(
            f"{run}: no finished run here (no {' or '.join(KINDS)} folder); "
            "give the folder that `embre pretrain` or `embre finetune` printed"
        )
    handle = RunHandle(**json.loads(remembered.read_text()))
    version, new = register(run / kind, kind, name, alias, handle)
    return Registered(name, version, kind, new, handle.uri)
