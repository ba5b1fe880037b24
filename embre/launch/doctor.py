"""What `embre doctor` looks at; each finding says how to mend it."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import yaml

from embre.config import FinetuneConfig, PretrainConfig, RunConfig, load_config

OLDEST_PYTHON = (3, 11)
PACKAGES = ("torch", "transformers", "deepspeed", "ray", "mlflow", "webdataset")
ENOUGH_DISK_GB = 5


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    level: Literal["ok", "warning", "error"]
    subject: str
    finding: str


def examine(config_path: Path | None) -> list[Check]:
    """All findings on this machine, and on a run if its config is given."""
    found = [python(), *packages(), accelerator(), compiler()]
    if config_path is None:
        return [*found, storage(Path("runs")), tracking(Path("runs"), None)]
    kind, config = read_any(config_path)
    folder = Path(config.storage)
    return [*found, storage(folder), tracking(folder, config.tracking.uri), job(kind, config)]


def python() -> Check:
    running = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    if sys.version_info < OLDEST_PYTHON:
        return Check("error", "python", f"{running}; 3.11 or newer is needed")
    return Check("ok", "python", running)


def packages() -> Iterator[Check]:
    for name in PACKAGES:
        try:
            yield Check("ok", name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            remedy = "not installed; run pip install -c constraints.txt -e '.[dev]'"
            yield Check("error", name, remedy)


def accelerator() -> Check:
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        return Check("ok", "gpu", f"{torch.cuda.device_count()} × {', '.join(sorted(names))}")
    if torch.version.cuda:
        return Check("warning", "gpu", "torch has CUDA but sees no device; see nvidia-smi")
    return Check(
        "warning", "gpu", "none: keep launch.use_gpu=false; base-size runs take weeks here"
    )


def compiler() -> Check:
    if shutil.which("g++") or shutil.which("c++"):
        return Check("ok", "compiler", "a C++ compiler is here (torch.compile needs one)")
    return Check("warning", "compiler", "no C++ compiler: torch.compile will not work; install g++")


def storage(folder: Path) -> Check:
    """Whether a file can be written and moved into place there, and how much room there is."""
    existing = next(
        path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()
    )
    try:
        with tempfile.TemporaryDirectory(dir=existing) as scratch:
            (Path(scratch) / "a").write_text("x")
            (Path(scratch) / "a").rename(Path(scratch) / "b")
    except OSError as error:
        return Check(
            "error", "storage", f"{existing}: cannot write ({error}); choose another folder"
        )
    free_gb = shutil.disk_usage(existing).free / 1e9
    level = "ok" if free_gb > ENOUGH_DISK_GB else "warning"
    return Check(level, "storage", f"{folder.absolute()}: can be written, {free_gb:,.0f} GB free")


def tracking(folder: Path, uri: str | None) -> Check:
    """Whether MLflow answers."""
    from embre.tracking.runs import reachable

    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        return Check("ok", "mlflow", f"sqlite in {folder.absolute()}/mlflow.db (made when needed)")
    problem = reachable(uri)
    if problem:
        remedy = "start the server or set MLFLOW_TRACKING_URI"
        return Check("error", "mlflow", f"{uri} does not answer: {problem}; {remedy}")
    return Check("ok", "mlflow", uri)


def job(kind: str, config: RunConfig) -> Check:
    """What the run itself would be refused for."""
    from embre.launch.driver import KINDS, resolve

    check: Callable[[RunConfig], dict[str, str]] = KINDS[kind].check
    try:
        digests = check(resolve(config))
    except (ValueError, OSError) as error:
        return Check("error", kind, str(error))
    known = ", ".join(f"{name} {digest[:12]}" for name, digest in digests.items())
    return Check("ok", kind, f"{config.name}: backbone and data are there and fit ({known})")


def read_any(path: Path) -> tuple[str, RunConfig]:
    """A config of either kind, told by its `data` section."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        shards = "shards" in values["data"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        shards = True  # load_config says what is wrong
    if shards:
        return "pretrain", load_config(PretrainConfig, path)
    return "finetune", load_config(FinetuneConfig, path)
