"""Tags of an MLflow run that name the code and the Ray job that made it."""

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path

from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_GIT_DIRTY

from embre import __version__

CHECKOUT = Path(__file__).resolve().parents[2]
RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in processes of a submitted job


def origin_tags() -> dict[str, str]:
    """The version of embre; in a git checkout its commit and whether it is dirty, under MLflow's
    own names; in a Ray job its submission id."""
    return {"embre.version": __version__, **_commit(CHECKOUT), **_ray_job()}


def _commit(folder: Path) -> dict[str, str]:
    """The commit of a checkout; empty for an installed package, even within another checkout."""
    if not (folder / ".git").exists():
        return {}
    with suppress(OSError, subprocess.SubprocessError):  # no git here, or it does not trust us
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
        dirty = str(bool(changed)).lower()
        return {MLFLOW_GIT_COMMIT: _git(folder, "rev-parse", "HEAD"), MLFLOW_GIT_DIRTY: dirty}
    return {}


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _ray_job() -> dict[str, str]:
    metadata = json.loads(os.environ.get(RAY_JOB, "{}")).get("metadata", {})
    job = metadata.get("job_submission_id")
    return {"embre.ray_job": job} if job else {}
