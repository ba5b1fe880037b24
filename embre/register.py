"""Registers the encoder or relation model of a finished run in the MLflow registry."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from embre.config.places import is_url, sqlite_file
from embre.evaluation.scoring import METRICS
from embre.finetune import RELATION_MODEL, SCORES
from embre.pretrain import ENCODER
from embre.provenance import folder_digest
from embre.refused import Refused
from embre.tracking.registry import DIGEST, lineage_tags, register
from embre.tracking.runs import RUN_FILE, RunHandle, files_of
from embre.tracking.uri import resolve_uri
from embre.tracking.versions import Version, aliased

KINDS = (ENCODER, RELATION_MODEL)
F1 = tuple(f"{metric}_f1" for metric in METRICS)
SAME = {
    "embre.dev": "on other documents",
    "embre.scoring_protocol": "under another scoring protocol",
}


class NotBetter(RuntimeError):
    """The model does not beat the one that the alias points to."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A version in the registry; `new` if this call created it."""

    name: str
    version: str
    kind: str
    new: bool
    uri: str


def register_run(
    run: Path,
    name: str,
    alias: str | None,
    if_better: str | None = None,
    tracking_uri: str | None = None,
) -> Registered:
    """Register the model of a run, once. Give `tracking_uri` if the MLflow store was moved.

    With `if_better`, one of `F1`, the alias moves only to a model that scores higher than the
    version it points to. Raises NotBetter if it does not, and Refused if the two were not scored on
    the same documents under the same protocol; nothing is registered then. Raises
    FileNotFoundError if the folder is not a finished run.
    """
    kind = next((kind for kind in KINDS if (run / kind).is_dir()), None)
    remembered = run / RUN_FILE
    if kind == RELATION_MODEL and not (run / SCORES).exists():
        raise FileNotFoundError(
            f"{run}: this run is not finished, it has no {SCORES}; run the same `embre finetune` "
            "command again to finish it, then register"
        )
    if kind is not None and not remembered.exists():
        raise Refused(
            f"{run}: it has no MLflow run, because the server did not respond when it started; run "
            "the same command again, which only exports, then register"
        )
    if kind is None:
        raise FileNotFoundError(
            f"{run}: no finished run here (no {' or '.join(KINDS)} folder); "
            "give the folder that `embre pretrain` or `embre finetune` printed"
        )
    check_names(name, alias)
    if if_better is not None and alias is None:
        raise Refused("--if-better compares with the model of an alias: give --alias too")
    handle = RunHandle(**json.loads(remembered.read_text()))
    if tracking_uri is not None:
        handle = replace(handle, uri=resolve_uri(tracking_uri))
    refuse_moved(handle, run)
    scores = f1_of(run) if kind == RELATION_MODEL else {}
    if if_better is not None and alias is not None:
        now = aliased(name, alias, handle.uri)
        check_better(run / kind, scores, if_better, f"{name}@{alias}", now)
    version, new = register(run / kind, kind, name, alias, handle, scores)
    return Registered(name, version, kind, new, handle.uri)


def refuse_moved(handle: RunHandle, run: Path) -> None:
    """Raise Refused if the store is missing, has no such run, or names a folder of artifacts that
    does not exist, as after a move to another machine."""
    file = sqlite_file(handle.uri)
    if file and not file.exists():
        raise Refused(
            f"{run}: its MLflow store {handle.uri} is not here; if the store was moved, give its "
            "new place by --tracking-uri"
        )
    files = files_of(handle)
    if files is None:
        raise Refused(
            f"{run}: the store {handle.uri} has no run {handle.run_id}; give the store that has it "
            "by --tracking-uri"
        )
    folder = Path(unquote(urlsplit(files).path))
    if (files.startswith("file:") or not is_url(files)) and not folder.exists():
        raise Refused(
            f"{run}: the store {handle.uri} keeps the artifacts of this run in {folder}, which "
            "does not exist; copy them there, or create it"
        )


def check_names(name: str, alias: str | None) -> None:
    """Raise Refused for names that MLflow would refuse only after the model was copied."""
    if not re.fullmatch(r"[\w. -]+", name):
        raise Refused(f"--name {name}: use letters, digits, '.', '-' and spaces only")
    if alias is not None and not re.fullmatch(r"(?!(latest|v\d+)$)[\w-]+", alias, re.IGNORECASE):
        raise Refused(
            f"--alias {alias}: use letters, digits and hyphens, as champion; latest and v1 are "
            "reserved"
        )


def f1_of(run: Path) -> dict[str, float]:
    """The F1 scores of a fine-tuning run, by their names in `F1`."""
    scores = json.loads((run / SCORES).read_text())["dev"]
    return {f"{metric}_f1": found["f1"] for metric, found in scores.items()}


def check_better(
    folder: Path, scores: Mapping[str, float], metric: str, champion: str, now: Version | None
) -> None:
    """Raise NotBetter unless `scores` beat `now`, the version of the alias `champion`, if any.

    Raises Refused if the two cannot be compared.
    """
    if metric not in F1:
        raise Refused(f"--if-better {metric}: no such score; known: {', '.join(F1)}")
    if not scores:
        raise Refused(f"{folder}: an encoder has no {metric}; leave out --if-better")
    if metric not in scores:
        raise Refused(
            f"{folder}: {metric} was not trained (see pairs.tasks, and whether the corpus has "
            f"novelty); compare by one of {', '.join(scores)}"
        )
    if now is None or now.tags.get(DIGEST) == folder_digest(folder):
        return
    ours = lineage_tags(folder)
    for key, how in SAME.items():
        before, here = now.tags.get(key), ours.get(key)
        if before is None or here is None or before != here:
            raise Refused(
                f"{champion} (version {now.number}) was scored {how} "
                f"({key}: {_short(before)} there, {_short(here)} here), so the two cannot be "
                "compared; fine-tune both with the same data.dev and data.corpus, or set the alias "
                "without --if-better"
            )
    theirs = float(now.tags.get(f"embre.{metric}", "nan"))
    if not math.isfinite(theirs):
        raise Refused(
            f"{champion} (version {now.number}) has no {metric}, so the two cannot be compared; "
            "choose another metric, or set the alias without --if-better"
        )
    if not scores[metric] > theirs:
        raise NotBetter(
            f"{metric} {scores[metric]:.4f} does not beat {champion} (version {now.number}, "
            f"{theirs:.4f}): nothing was registered and the alias was not moved"
        )


def _short(value: str | None) -> str:
    return "not known" if value is None else value if "/" in value else value[:12]
