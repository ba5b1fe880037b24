"""What `embre doctor` looks at; each finding says how to mend it."""

import importlib.metadata
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import fsspec
import torch
import torch.cuda.nccl

from embre.compiled_ops import ops_folder, stale_locks
from embre.config import (
    ConfigError,
    FinetuneConfig,
    PretrainConfig,
    RunConfig,
    load_config,
    read_values,
    refuse_secrets,
)
from embre.shards import ShardSet

if TYPE_CHECKING:
    from embre.launch.estimate import Estimate

OLDEST_PYTHON = (3, 11)
PACKAGES = ("torch", "transformers", "deepspeed", "ray", "mlflow", "webdataset")
ENOUGH_DISK_GB = 5
FAST_ENOUGH = 0.7
SHARDS_NAMED = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    level: Literal["ok", "warning", "error"]
    subject: str
    finding: str


def examine(config_path: Path | None) -> list[Check]:
    """All findings on this machine, and on a run if its config is given."""
    found = [python(), *packages(), accelerator(), *nccl(), *compiled_ops()]
    if config_path is None:
        return [*found, storage(Path("runs")), tracking(Path("runs"), None)]
    kind, config = read_any(config_path)
    try:
        refuse_secrets(config)
    except ConfigError as error:  # which other findings would show
        return [*found, Check("error", "config", str(error))]
    folder = Path(config.storage)
    found += [storage(folder), tracking(folder, config.tracking.uri)]
    found += [cluster(config), *ray_cluster(config), precision(config), job(kind, config)]
    if isinstance(config, PretrainConfig) and found[-1].level == "ok":
        found.append(shard_files(config.data.shards))
        if not config.encoder.path.startswith("models:/"):
            found += expected(config)
    return found


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


def nccl() -> Iterator[Check]:
    """What GPUs talk by."""
    if torch.cuda.is_available() and torch.distributed.is_nccl_available():
        yield Check("ok", "nccl", ".".join(str(part) for part in torch.cuda.nccl.version()))
    elif torch.cuda.is_available():
        yield Check("warning", "nccl", "this torch has none: ranks on several GPUs cannot talk")


def storage(folder: Path) -> Check:
    """Whether a file can be written and moved into place there, and how much room there is."""
    existing = first_existing(folder)
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


def first_existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def tracking(folder: Path, uri: str | None) -> Check:
    """Whether MLflow answers. What is shown of its address has no password."""
    from embre.tracking.runs import reachable, without_secrets

    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        return Check("ok", "mlflow", f"sqlite in {folder.absolute()}/mlflow.db (made when needed)")
    problem = reachable(uri)
    if problem:
        remedy = "start the server or set MLFLOW_TRACKING_URI"
        shown = f"{without_secrets(uri)} does not answer: {problem}; {remedy}"
        return Check("error", "mlflow", shown)
    return Check("ok", "mlflow", without_secrets(uri))


def cluster(config: RunConfig) -> Check:
    """Whether the ranks that the run asks for can be had."""
    launch = config.launch
    address = os.environ.get("RAY_ADDRESS")
    if launch.use_gpu and not address and not torch.cuda.is_available():
        return Check("error", "launch", "launch.use_gpu, and no GPU here; set RAY_ADDRESS")
    if launch.launcher == "local":
        return Check("ok", "launch", "in this process, or as torchrun starts it")
    if address:
        return Check("ok", "launch", f"{launch.workers} workers on the Ray cluster at {address}")
    needed, have = launch.workers * launch.cpus_per_worker, os.cpu_count() or 1
    if needed > have:
        remedy = (
            f"lower launch.workers to {int(have // launch.cpus_per_worker)}, or set RAY_ADDRESS"
        )
        return Check("error", "launch", f"needs {needed:g} CPUs, this machine has {have}; {remedy}")
    return Check("ok", "launch", f"{launch.workers} workers on a Ray of this machine")


def precision(config: RunConfig) -> Check:
    """Whether the chosen precision pays on the CPU; without the instructions bf16 crawls."""
    chosen = config.encoder.precision
    if config.launch.use_gpu:
        return Check("ok", "precision", f"{chosen} on a GPU")
    slower = product_s(torch.bfloat16) / product_s(torch.float32)
    seen = f"a matrix product in bf16 takes {slower:.1f} × the time of fp32 on this CPU"
    if chosen == "bf16" and slower > 1:
        return Check("warning", "precision", f"{seen}; set encoder.precision=fp32")
    if chosen == "fp32" and slower < FAST_ENOUGH:
        return Check("ok", "precision", f"fp32; {seen}: encoder.precision=bf16 is worth a try")
    return Check("ok", "precision", f"{chosen}; {seen}")


def ray_cluster(config: RunConfig) -> Iterator[Check]:
    """Whether the cluster of RAY_ADDRESS answers, has room, and asks for a token."""
    address = os.environ.get("RAY_ADDRESS")
    if config.launch.launcher != "ray" or not address:
        return
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        have = ray.cluster_resources()
    except Exception as error:  # Ray raises many kinds
        said = " ".join(str(error).split())[:200]
        yield Check(
            "error", "ray", f"{address} does not answer: {said}; start it or set RAY_ADDRESS"
        )
        return
    finally:
        ray.shutdown()
    launch = config.launch
    needed = {"CPU": launch.workers * launch.cpus_per_worker}
    needed |= {"GPU": launch.workers} if launch.use_gpu else {}
    known = ", ".join(f"{have.get(name, 0):g} {name}" for name in needed)
    lacking = [name for name, amount in needed.items() if have.get(name, 0) < amount]
    remedy = f"; {launch.workers} workers need more {' and '.join(lacking)}: lower launch.workers"
    yield Check(
        "error" if lacking else "ok", "ray", f"{address} has {known}{remedy if lacking else ''}"
    )
    if os.environ.get("RAY_AUTH_MODE") != "token":
        yield Check(
            "warning",
            "ray token",
            "RAY_AUTH_MODE is not token: whoever reaches the cluster can run code on it; "
            "see docs/CLUSTER.md",
        )


def compiled_ops() -> Iterator[Check]:
    """Locks that a killed build of a torch or DeepSpeed op left: the next waits for ever."""
    for lock, quiet_s in stale_locks(ops_folder()):
        yield Check("warning", "ops", f"{lock} is {quiet_s / 60:.0f} minutes old; remove it")


def shard_files(url: str) -> Check:
    """Whether the shards of the manifest are there in its sizes, by a listing and no reading."""
    if url.startswith("https:"):
        seen = "a web server lists no sizes; tools/inspect_shards.py --verify reads all"
        return Check("ok", "shards", f"{url}: {seen}")
    try:
        entries = ShardSet.open(url).manifest.shards
        filesystem, root = fsspec.url_to_fs(url.rstrip("/"))
        files = filesystem.ls(root, detail=True)
    except (OSError, ValueError, NotImplementedError) as error:
        return Check("error", "shards", f"{url}: cannot be listed: {error}; see data.shards")
    sizes = {Path(file["name"]).name: file["size"] for file in files}
    wrong = [entry.name for entry in entries if sizes.get(entry.name) != entry.bytes]
    if wrong:
        named = ", ".join(wrong[:SHARDS_NAMED]) + (" …" if len(wrong) > SHARDS_NAMED else "")
        return Check(
            "error",
            "shards",
            f"{url}: {len(wrong)} of {len(entries)} shards are not there or have another size than "
            f"in the manifest: {named}; copy them again",
        )
    total = sum(entry.bytes for entry in entries)
    return Check("ok", "shards", f"{len(entries)} are there, {total / 1e9:,.1f} GB")


def expected(config: PretrainConfig) -> Iterator[Check]:
    """About how long the run will take, how much memory a rank and how much disk its checkpoints,
    and whether that is here."""
    from embre.launch.estimate import estimate

    found = estimate(config)
    yield memory(config, found)
    kept = config.train.keep_checkpoints + 1  # one is written before the oldest goes
    needed = kept * found.checkpoint_bytes
    storage = Path(config.storage)
    there = (storage / config.name / "checkpoints").glob("*/*")  # of a run that goes on
    free = shutil.disk_usage(first_existing(storage)).free
    free += sum(path.stat().st_size for path in there)
    text = f"{kept} checkpoints of {found.checkpoint_bytes / 1e9:,.1f} GB"
    if needed > free:
        remedy = "lower train.keep_checkpoints, or set another storage"
        yield Check("error", "disk", f"{text}, and {free / 1e9:,.1f} GB free; {remedy}")
    else:
        yield Check("ok", "disk", f"{text} at a time")


def memory(config: PretrainConfig, found: "Estimate") -> Check:
    text = (
        f"about {found.seconds / 3600:,.1f} h on {config.launch.workers} × {found.device}, "
        f"{found.rank_bytes / 1e9:,.1f} GB a rank"
    )
    if config.launch.use_gpu and not torch.cuda.is_available():
        return Check("ok", "estimate", text)
    if config.launch.use_gpu:
        have = torch.cuda.get_device_properties(0).total_memory
    else:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    here = 1 if config.launch.use_gpu or os.environ.get("RAY_ADDRESS") else config.launch.workers
    if found.rank_bytes * here > have:
        remedy = "lower data.strip_tokens, or set encoder.activation_checkpointing"
        return Check("error", "estimate", f"{text}, of {have / 1e9:,.0f}; {remedy}")
    return Check("ok", "estimate", text)


def product_s(dtype: torch.dtype) -> float:
    """Seconds of one matrix product of a small encoder's size, the better of two."""
    left, right = torch.ones(512, 384, dtype=dtype), torch.ones(384, 384, dtype=dtype)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        torch.matmul(left, right)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def job(kind: str, config: RunConfig) -> Check:
    """What the run itself would be refused for."""
    from embre.launch.driver import KINDS, resolve

    if config.encoder.path.startswith("models:/"):
        return Check("ok", kind, f"{config.encoder.path} is fetched when the run starts")
    check: Callable[[RunConfig], dict[str, str]] = KINDS[kind].check
    try:
        digests = check(resolve(config))
    except (ValueError, OSError) as error:
        return Check("error", kind, str(error))
    known = ", ".join(f"{name} {digest[:12]}" for name, digest in digests.items())
    return Check("ok", kind, f"{config.name}: backbone and data are there and fit ({known})")


def read_any(path: Path) -> tuple[str, RunConfig]:
    """A config of either kind, told by its `data` section."""
    data = read_values(path)[0].get("data")
    if not isinstance(data, dict) or "shards" in data:
        return "pretrain", load_config(PretrainConfig, path)
    return "finetune", load_config(FinetuneConfig, path)
