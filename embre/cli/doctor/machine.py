"""Checks of a machine: Python, packages, GPU, storage, MLflow."""

import importlib.metadata
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pynvml
import torch
import torch.cuda.nccl

from embre.config.places import sqlite_file
from embre.engines.compiled_ops import ops_folder, stale_locks

OLDEST_PYTHON, TOO_NEW_PYTHON = (3, 11), (3, 15)  # as in pyproject.toml: Ray has no later wheel
PACKAGES = ("torch", "transformers", "deepspeed", "ray", "mlflow", "webdataset")
ENOUGH_DISK_GB = 5
OLDEST_DRIVERS = {"12": 525, "13": 580}  # NVIDIA's CUDA release notes, by CUDA's major version


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    level: Literal["ok", "warning", "error"]
    subject: str
    finding: str


def python() -> Check:
    running = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    if not OLDEST_PYTHON <= sys.version_info[:2] < TOO_NEW_PYTHON:
        return Check("error", "python", f"{running}; 3.11 to 3.14 is needed")
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
        why = old_driver(torch.version.cuda, driver_version()) or "see nvidia-smi"
        return Check("warning", "gpu", f"torch has CUDA but sees no device; {why}")
    return Check(
        "warning", "gpu", "none: keep launch.use_gpu=false; base-size runs take weeks here"
    )


def driver_version() -> str:
    """NVIDIA's driver version as NVML reports it ("550.54.15"), or '' without a driver."""
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError:
        return ""


def old_driver(cuda: str, driver: str) -> str:
    """Message and remedy if an NVIDIA driver is too old for torch's CUDA version, else ''."""
    oldest = OLDEST_DRIVERS.get(cuda.split(".")[0])
    if not driver or not oldest or int(driver.split(".")[0]) >= oldest:
        return ""
    return (
        f"the NVIDIA driver is {driver}, and CUDA {cuda} needs {oldest} or later: update it, or "
        "install a torch built for an older CUDA (docs/CLUSTER.md, section 1)"
    )


def nccl() -> Iterator[Check]:
    """NCCL, the communication library of several GPUs."""
    if torch.cuda.is_available() and torch.distributed.is_nccl_available():
        yield Check("ok", "nccl", ".".join(str(part) for part in torch.cuda.nccl.version()))
    elif torch.cuda.is_available():
        yield Check("warning", "nccl", "this torch has none: several GPUs cannot communicate")


def compiled_ops() -> Iterator[Check]:
    """Locks that a killed build of a torch or DeepSpeed op left; the next build waits forever."""
    for lock, quiet_s in stale_locks(ops_folder()):
        yield Check("warning", "ops", f"{lock} is {quiet_s / 60:.0f} minutes old; remove it")


def toolchain(gpu: bool) -> Check:
    """Check what torch.compile builds with: C for the launchers of Triton's kernels on a GPU, C++
    for kernels of a CPU, and Python's headers for both."""
    # As Triton and Inductor look for them.
    language, variable, known = ("C", "CC", "gcc clang") if gpu else ("C++", "CXX", "g++")
    commands = [os.environ[variable]] if os.environ.get(variable) else known.split()
    compilers = [found for command in commands if (found := shutil.which(command))]
    headers = Path(sysconfig.get_path("include"))
    missing = [] if compilers else [f"a {language} compiler ({' or '.join(commands)})"]
    if not (headers / "Python.h").exists():
        missing.append(f"Python.h in {headers}")
    if not missing:
        return Check("ok", "compile", f"{compilers[0]}, {headers}")
    package, version = "gcc" if gpu else "g++", ".".join(platform.python_version_tuple()[:2])
    return Check(
        "warning",
        "compile",
        f"torch.compile needs {' and '.join(missing)}: install {package} and python{version}-dev "
        f"(Red Hat: gcc-c++ and python{version}-devel), or set encoder.compile=false",
    )


def storage(folder: Path) -> Check:
    """Check that a file can be written and renamed in a folder, and the free disk space."""
    if problem := unwritable(folder):
        return Check("error", "storage", f"{problem}; choose another folder")
    free_gb = shutil.disk_usage(first_existing(folder)).free / 1e9
    level = "ok" if free_gb > ENOUGH_DISK_GB else "warning"
    return Check(level, "storage", f"{folder.absolute()}: can be written, {free_gb:,.0f} GB free")


def unwritable(folder: Path) -> str:
    """The reason why no file can be written and renamed in a folder (it need not exist), or ''."""
    existing = first_existing(folder)
    try:
        with tempfile.TemporaryDirectory(dir=existing) as scratch:
            (Path(scratch) / "a").write_text("x")
            (Path(scratch) / "a").rename(Path(scratch) / "b")
    except OSError as error:
        return f"{existing}: cannot write ({error})"
    return ""


def first_existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def tracking(folder: Path, uri: str | None) -> Check:
    """Check that the MLflow store of a run with this storage and `tracking.uri` is reachable. No
    password of its address is shown."""
    from embre.tracking.runs import reachable, without_secrets
    from embre.tracking.uri import resolve_uri

    try:
        uri = resolve_uri(uri, folder, "tracking.uri")
    except ValueError as error:
        return Check("error", "mlflow", str(error))
    file = sqlite_file(uri)
    if file and not file.exists():
        if problem := unwritable(file.parent):
            return Check("error", "mlflow", f"{problem}; give another tracking.uri")
        return Check("ok", "mlflow", f"{uri} (made when needed)")
    problem = reachable(uri)
    if problem:
        remedy = "start the server or set MLFLOW_TRACKING_URI"
        shown = f"{without_secrets(uri)} does not answer: {problem}; {remedy}"
        return Check("error", "mlflow", shown)
    return Check("ok", "mlflow", without_secrets(uri))
