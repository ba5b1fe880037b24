"""Checks of a run: its workers and cluster, precision, data, estimated time and memory."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import torch

from embre.cli.doctor.machine import Check, first_existing, toolchain
from embre.config import LaunchConfig, PretrainConfig, RunConfig
from embre.config.places import sqlite_file
from embre.engines.flops import product_flops_per_s
from embre.shards.shard_set import ShardSet

if TYPE_CHECKING:
    from embre.cli.doctor.estimate import Estimate

FAST_ENOUGH = 0.7
SHARDS_NAMED = 3
SHARED_SQLITE = (
    "several machines would write one SQLite file, and few shared file systems lock it reliably; "
    "set MLFLOW_TRACKING_URI to a server"
)


def cluster(config: RunConfig) -> Check:
    """Check that this machine, or a cluster, has the workers and GPUs of the run."""
    launch = config.launch
    address = os.environ.get("RAY_ADDRESS")
    if launch.use_gpu and not address and not torch.cuda.is_available():
        return Check("error", "launch", "launch.use_gpu, and no GPU here; set RAY_ADDRESS")
    if launch.launcher == "local":
        return Check("ok", "launch", "in this process, or as torchrun starts it")
    if address:
        return Check("ok", "launch", f"{_workers(launch)} on the Ray cluster at {address}")
    have = {"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}
    if lacking := launch.lacking(have):
        return Check("error", "launch", f"{lacking}, or set RAY_ADDRESS")
    return Check("ok", "launch", f"{_workers(launch)} on a Ray of this machine")


def _workers(launch: LaunchConfig) -> str:
    fewer = f"{launch.min_workers} to " if launch.min_workers else ""
    return f"{fewer}{launch.workers} workers"


def ray_answers(config: RunConfig) -> Iterator[Check]:
    """Check that the cluster of RAY_ADDRESS is reachable, its resources, MLflow store and token."""
    address = os.environ.get("RAY_ADDRESS")
    if config.launch.launcher != "ray" or not address:
        return
    import ray

    from embre.tracking.uri import resolve_uri

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        have = ray.cluster_resources()
        num_nodes = sum(node["Alive"] for node in ray.nodes())
    except Exception as error:  # Ray raises many kinds
        why = " ".join(str(error).split())[:200]
        yield Check(
            "error", "ray", f"{address} does not answer: {why}; start it or set RAY_ADDRESS"
        )
        return
    finally:
        ray.shutdown()
    launch = config.launch
    if (shortage := launch.shortage(have)) and launch.wait_for_nodes_s:
        waits = f"the run waits {launch.wait_for_nodes_s:,.0f} s for nodes of an autoscaler"
        yield Check("warning", "ray", f"{address}: {shortage}; {waits}")
    elif shortage:
        remedy = "or, if an autoscaler adds nodes, launch.wait_for_nodes_s"
        yield Check("error", "ray", f"{address}: {launch.lacking(have)}, {remedy}")
    else:
        known = ", ".join(f"{have[name]:g} {name}" for name in launch.needed)
        yield Check("ok", "ray", f"{address} has {known}")
    if idle := launch.idle(have):
        yield Check("warning", "ray", idle)
    if num_nodes > 1 and sqlite_file(resolve_uri(config.tracking.uri, config.storage)):
        yield Check("warning", "mlflow", SHARED_SQLITE)
    if os.environ.get("RAY_AUTH_MODE") != "token":
        yield Check(
            "warning",
            "ray token",
            "RAY_AUTH_MODE is not token: whoever reaches the cluster can run code on it; "
            "see docs/CLUSTER.md",
        )


def compiling(config: RunConfig) -> Iterator[Check]:
    """Check that this machine can compile kernels, if the run does; it must if the run is here."""
    if config.encoder.compile:
        found = toolchain(config.launch.use_gpu)
        here = not os.environ.get("RAY_ADDRESS")
        yield replace(found, level="error") if here and found.level == "warning" else found


def precision(config: RunConfig) -> Check:
    """Compare bf16 and fp32 on the CPU; without instructions for it bf16 is many times slower."""
    chosen = config.encoder.precision
    if config.launch.use_gpu:
        return Check("ok", "precision", f"{chosen} on a GPU")
    fp32, bf16 = (
        product_flops_per_s(torch.device("cpu"), dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    slower = fp32 / bf16
    measured = f"a matrix product in bf16 takes {slower:.1f} × the time of fp32 on this CPU"
    if chosen == "bf16" and slower > 1:
        return Check("warning", "precision", f"{measured}; set encoder.precision=fp32")
    if chosen == "fp32" and slower < FAST_ENOUGH:
        return Check("ok", "precision", f"fp32; {measured}: encoder.precision=bf16 is worth a try")
    return Check("ok", "precision", f"{chosen}; {measured}")


def job(kind: str, config: RunConfig) -> Check:
    """Run the checks that the run itself starts with."""
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


def shard_files(url: str) -> Check:
    """Compare the sizes of the shard files, by a listing, with the manifest; nothing is read."""
    if url.startswith("https:"):
        known = "a web server lists no sizes; tools/inspect_shards.py --verify reads all"
        return Check("ok", "shards", f"{url}: {known}")
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
    """Estimate the time of the run, the memory of a rank and the disk space of the checkpoints, and
    compare them with this machine."""
    from embre.cli.doctor.estimate import estimate

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
