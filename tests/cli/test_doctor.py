"""What the doctor says of a cluster, of stale locks, of a machine and of what a run will take."""

import importlib.metadata
import os
import shutil
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
import ray
import torch
import yaml
from packaging.specifiers import SpecifierSet

from embre.cli.doctor import estimate as estimating
from embre.cli.doctor import examine, machine
from embre.cli.doctor import run as of_a_run
from embre.cli.doctor.estimate import estimate
from embre.cli.doctor.machine import compiled_ops, nccl, packages, storage, tracking
from embre.cli.doctor.run import cluster, expected, ray_answers, shard_files
from embre.config import FinetuneConfig, LaunchConfig, PretrainConfig, check_config
from embre.engines.compiled_ops import STALE_AFTER_S
from embre.model.backbone import backbone_shape, num_parameters
from embre.tokenization.tokenizer import load_tokenizer
from embre.tracking import runs
from tests.shard_sets import write_shards

ROOT = Path(__file__).resolve().parents[2]


def pretraining(folder: Path, **sections: object) -> PretrainConfig:
    values = {
        "name": "small",
        "encoder": {"path": str(folder / "tokenizer"), "new": {"layers": 2, "hidden": 64}},
        "data": {"shards": str(folder), "streams": 2, "strip_tokens": 1024},
        "train": {"steps": 100},
        **sections,
    }
    return check_config(PretrainConfig, values, "test")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_shards(tmp_path_factory.mktemp("made"), 20).url)


def test_an_estimate_grows_with_the_work_and_falls_with_the_workers(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimating, "product_flops_per_s", lambda device, dtype: 1e9)
    one = estimate(pretraining(shards))
    longer = estimate(pretraining(shards, train={"steps": 300}))
    assert longer.seconds == pytest.approx(3 * one.seconds)
    two = pretraining(shards, launch={"launcher": "ray", "workers": 2})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert estimate(two).seconds == pytest.approx(one.seconds), (
        "they share the cores of one machine"
    )
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    two = estimate(two)
    assert two.seconds == pytest.approx(one.seconds / 2)
    assert two.rank_bytes == one.rank_bytes
    data = {"shards": str(shards), "streams": 2, "strip_tokens": 4096}
    assert estimate(pretraining(shards, data=data)).rank_bytes > one.rank_bytes
    on_gpu = pretraining(shards, launch={"use_gpu": True})
    half = on_gpu.encoder.model_copy(update={"precision": "bf16"})
    gpu, compiled = (
        estimate(on_gpu.model_copy(update={"encoder": encoder}))
        for encoder in (half, half.model_copy(update={"compile": True}))
    )
    assert gpu.seconds < one.seconds / 1000
    assert compiled.seconds < gpu.seconds and compiled.rank_bytes < gpu.rank_bytes


def test_a_run_that_does_not_fit_is_an_error(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [check.level for check in expected(pretraining(shards))] == ["ok", "ok"]
    monkeypatch.setattr(os, "sysconf", lambda name: 1)
    found, _ = expected(pretraining(shards))
    assert found.level == "error" and "lower data.strip_tokens" in found.finding


def free_bytes(free: float) -> SimpleNamespace:
    return SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=free))


def test_checkpoints_that_do_not_fit_on_the_disk_are_an_error(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pretraining(
        shards, storage=str(tmp_path / "runs"), train={"steps": 1, "keep_checkpoints": 3}
    )
    size = estimate(config).checkpoint_bytes
    tokenizer = load_tokenizer(config.encoder.path)
    weights = num_parameters(backbone_shape(config.encoder, tokenizer))
    assert 12 * weights < size < 15 * weights
    monkeypatch.setattr(of_a_run, "shutil", free_bytes(4 * size))
    assert [check.level for check in expected(config)] == ["ok", "ok"]
    monkeypatch.setattr(of_a_run, "shutil", free_bytes(4 * size - 1))
    _, found = expected(config)
    assert found.level == "error" and "lower train.keep_checkpoints" in found.finding


def test_shards_that_are_not_there_or_cut_off_are_named(shards: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(shards, tmp_path / "shards")
    assert shard_files(str(copied)).level == "ok"
    first, second, third, *_ = sorted(copied.glob("*.tar"))
    first.unlink(), second.write_bytes(b"cut off")
    found = shard_files(f"file://{copied}/")
    assert found.level == "error" and ": 2 of " in found.finding
    assert first.name in found.finding and second.name in found.finding
    assert third.name not in found.finding
    assert "lists no sizes" in shard_files("https://127.0.0.1:9/shards").finding
    (copied / "manifest.json").unlink()
    assert shard_files(str(copied)).level == "error"


CANARY = "canary8f3e1b"


@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql+none://me:{CANARY}@127.0.0.1/runs",
        f"http://me:{CANARY}/@@127.0.0.1:9/mlflow?key={CANARY}",
        f"http://me:pa?{CANARY}@127.0.0.1:9/mlflow",
    ],
)
def test_no_password_of_a_tracking_store_is_shown(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found = tracking(tmp_path, None)
    assert found.level == "error" and CANARY not in found.finding
    monkeypatch.setattr(runs, "reachable", lambda uri: "")
    assert CANARY not in tracking(tmp_path, uri).finding


def test_what_the_run_refuses_as_a_tracking_store_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{CANARY}@127.0.0.1:9/mlflow")
    monkeypatch.setattr(runs, "reachable", lambda uri: "")
    found = tracking(tmp_path, None)
    assert found.level == "error" and "MLFLOW_TRACKING_PASSWORD" in found.finding
    found = tracking(tmp_path, "sqlite:///" + str(tmp_path / "new" / "mlflow.db"))
    assert found.level == "ok" and "made when needed" in found.finding
    assert not list(tmp_path.iterdir()), "the doctor makes nothing"


def test_a_secret_in_a_config_is_reported_without_its_value(tmp_path: Path) -> None:
    config = pretraining(tmp_path, data={"shards": f"https://me:{CANARY}@host/set", "streams": 1})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    found = examine(path)
    assert (found[-1].level, found[-1].subject) == ("error", "config")
    assert "data.shards: contains a URL with a password" in found[-1].finding
    assert CANARY not in repr(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"storage": "s3://bucket/runs"}, "storage: s3://bucket/runs is a URL"),
        ({"launch": {"workers": 2}}, "the local launcher is one process"),
    ],
)
def test_the_doctor_refuses_what_the_run_refuses(
    shards: Path, tmp_path: Path, change: dict, message: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(pretraining(shards, **change).model_dump(mode="json")))
    found = examine(path)[-1]
    assert found.level == "error" and message in found.finding


@pytest.mark.parametrize(
    ("chosen", "bf16_per_s", "level", "said"),
    [
        ("bf16", 0.5, "warning", "bf16 takes 2.0 × the time of fp32 on this CPU; set encoder.prec"),
        ("bf16", 2.0, "ok", "bf16; "),
        ("fp32", 2.0, "ok", "encoder.precision=bf16 is worth a try"),
    ],
)
def test_the_doctor_says_which_precision_pays(
    shards: Path,
    chosen: str,
    bf16_per_s: float,
    level: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = {torch.float32: 1.0, torch.bfloat16: bf16_per_s}
    monkeypatch.setattr(of_a_run, "product_flops_per_s", lambda device, dtype: rates[dtype])
    config = pretraining(shards)
    encoder = config.encoder.model_copy(update={"precision": chosen})
    found = of_a_run.precision(config.model_copy(update={"encoder": encoder}))
    assert found.level == level and said in found.finding


def test_the_doctor_checks_the_run_with_its_overrides(shards: Path, tmp_path: Path) -> None:
    values = pretraining(shards).model_dump(mode="json")
    del values["data"]["shards"]  # a path that a cluster's user gives with the command
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    found = examine(path, [f"data.shards={shards}", f"storage={tmp_path}"])
    assert [check.finding for check in found if check.level == "error"] == []
    assert any(str(tmp_path) in check.finding for check in found if check.subject == "storage")
    found = examine(path, ["data.shards=/nowhere"])[-1]
    assert found.level == "error" and "/nowhere" in found.finding


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 10, 9), "error"), ((3, 11, 0), "ok"), ((3, 14, 9), "ok"), ((3, 15, 0), "error")],
)
def test_the_doctor_knows_the_pythons_of_pyproject(
    version: tuple[int, ...], level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "sys", SimpleNamespace(version_info=version))
    assert machine.python().level == level
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = SpecifierSet(project["requires-python"])
    assert (".".join(map(str, version)) in allowed) == (level == "ok")


def test_gpus_that_are_not_there_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    found = cluster(launching(launcher="ray", use_gpu=True, workers=8))
    assert found.level == "error" and "enough for 1; lower launch.workers" in found.finding


def test_nccl_is_named_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(nccl()) == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 29, 7))
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert [check.finding for check in nccl()] == ["2.29.7"]
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    assert [check.level for check in nccl()] == ["warning"]


@pytest.mark.parametrize(
    ("cuda", "driver", "message"),
    [
        ("13.0", "570.86.15", "the NVIDIA driver is 570.86.15, and CUDA 13.0 needs 580 or later"),
        ("13.0", "580.65.06", "see nvidia-smi"),
        ("12.6", "525.60.13", "see nvidia-smi"),
        ("12.6", "520.61.05", "CUDA 12.6 needs 525 or later"),
        ("14.0", "580.65.06", "see nvidia-smi"),
        ("13.0", "", "see nvidia-smi"),
    ],
)
def test_a_driver_that_is_too_old_for_torch_is_named(
    cuda: str, driver: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init() -> None:
        if not driver:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", init)
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    found = machine.accelerator()
    assert found.level == "warning" and message in found.finding


def launching(**launch: object) -> FinetuneConfig:
    return finetuning(1).model_copy(update={"launch": LaunchConfig(**launch)})


FINDINGS = [
    ("error", "cannot write", lambda folder: storage(folder / "file" / "runs")),
    ("warning", "can be written, 1 GB free", lambda folder: storage(folder / "runs")),
    ("error", "give another trac", lambda folder: tracking(folder, f"sqlite:///{folder}/file/a")),
    ("error", "not installed; run pip", lambda folder: next(iter(packages()))),
    ("error", "no GPU here", lambda folder: cluster(launching(use_gpu=True))),
    (
        "error",
        "3 workers need 3 CPU, but there are only 2, enough for 2; lower launch.workers",
        lambda folder: cluster(launching(launcher="ray", workers=3)),
    ),
    ("ok", "2 workers on a Ray", lambda folder: cluster(launching(launcher="ray", workers=2))),
    (
        "ok",
        "2 to 3 workers on a Ray",
        lambda folder: cluster(launching(launcher="ray", workers=3, min_workers=2)),
    ),
    (
        "error",
        "3 workers need 3 CPU, but there are only 2, enough for 2; lower "
        "launch.min_workers, or set RAY",
        lambda folder: cluster(launching(launcher="ray", workers=4, min_workers=3)),
    ),
]


@pytest.mark.parametrize(("level", "text", "look"), FINDINGS, ids=[row[1] for row in FINDINGS])
def test_what_is_wrong_with_a_machine_is_said_with_a_remedy(
    level: str, text: str, look: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    (tmp_path / "file").touch()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "shutil", free_bytes(1e9))
    found = look(tmp_path)
    assert found.level == level and text in found.finding


@pytest.mark.parametrize(
    ("gpu", "variable", "commands", "header", "message"),
    [
        (True, None, ["gcc"], True, "/bin/gcc, "),
        (True, None, ["clang"], True, "/bin/clang, "),
        (True, None, ["g++"], True, "needs a C compiler (gcc or clang): install gcc and python3."),
        (True, "icx", ["gcc"], True, "needs a C compiler (icx): install"),
        (True, None, ["gcc"], False, "needs Python.h in "),
        (False, None, ["g++"], True, "/bin/g++, "),
        (False, "clang++", ["clang++"], True, "/bin/clang++, "),
        (False, None, ["gcc"], False, "needs a C++ compiler (g++) and Python.h in "),
    ],
)
def test_what_torch_compile_builds_with_is_looked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: bool,
    variable: str | None,
    commands: list[str],
    header: bool,
    message: str,
) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv("CC" if gpu else "CXX", variable)
    which = {command: f"/bin/{command}" for command in commands}.get
    monkeypatch.setattr(machine, "shutil", SimpleNamespace(which=which))
    monkeypatch.setattr(machine, "sysconfig", SimpleNamespace(get_path=lambda _: str(tmp_path)))
    if header:
        (tmp_path / "Python.h").touch()
    found = machine.toolchain(gpu)
    assert found.subject == "compile" and message in found.finding
    missing = "needs" in message
    assert (found.level == "warning") == missing == ("encoder.compile=false" in found.finding)


def test_only_a_run_that_compiles_needs_a_compiler(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(machine, "shutil", SimpleNamespace(which=lambda _: None))
    config = pretraining(shards)
    assert list(of_a_run.compiling(config)) == []
    encoder = config.encoder.model_copy(update={"compile": True})
    config = config.model_copy(update={"encoder": encoder})
    (found,) = of_a_run.compiling(config)
    assert found.level == "error" and "C++ compiler" in found.finding
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    (found,) = of_a_run.compiling(config)
    assert found.level == "warning", "the nodes may have one"
    config = config.model_copy(update={"launch": LaunchConfig(use_gpu=True)})
    (found,) = of_a_run.compiling(config)
    assert "a C compiler" in found.finding


def test_the_doctor_looks_for_a_compiler_where_a_run_compiles(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(pretraining(shards).model_dump(mode="json")))
    assert "compile" not in {check.subject for check in examine(path)}
    given = ["encoder.compile=true", "data.strip_tokens=4096", f"storage={tmp_path}"]
    assert "compile" in {check.subject for check in examine(path, given)}
    assert "compile" not in {check.subject for check in examine(None)}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("embre.cli.doctor.accelerator", lambda: machine.Check("ok", "gpu", ""))
    monkeypatch.setattr("embre.cli.doctor.nccl", lambda: ())
    assert "compile" in {check.subject for check in examine(None)}


def test_a_lock_that_a_killed_build_left_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "py311_cpu" / "some_op" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert list(compiled_ops()) == [], "a build that may be under way"
    old = time.time() - 2 * STALE_AFTER_S
    os.utime(lock, (old, old))
    (found,) = compiled_ops()
    assert found.level == "warning" and str(lock) in found.finding


def finetuning(workers: int) -> FinetuneConfig:
    values = {
        "name": "small",
        "encoder": {"path": "-"},
        "data": {"train": "-", "dev": "-"},
        "train": {"steps": 1},
        "launch": {"launcher": "ray", "workers": workers},
    }
    return check_config(FinetuneConfig, values, "test")


class Cluster:
    """Stands in for Ray's cluster; without `cpus` it is not reachable."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, cpus: float | None, gpus: float = 0, nodes: int = 1
    ):
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        monkeypatch.setattr(ray, "init", self.init)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": cpus, "GPU": gpus})
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}] * nodes + [{"Alive": False}])
        self.cpus = cpus

    def init(self, address: str, **_: object) -> None:
        if self.cpus is None:
            raise ConnectionError("no route\nto host")


def test_a_cluster_is_asked_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert list(ray_answers(finetuning(2))) == []
    Cluster(monkeypatch, 4)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert [check.level for check in ray_answers(finetuning(2))] == ["ok"]
    (lacking,) = ray_answers(finetuning(8))
    assert (
        lacking.level == "error" and "8 workers need 8 CPU, but there are only 4" in lacking.finding
    )
    assert "if an autoscaler adds nodes, launch.wait_for_nodes_s" in lacking.finding
    (waits,) = ray_answers(launching(launcher="ray", workers=8, wait_for_nodes_s=600))
    assert waits.level == "warning" and "only 4, enough for 4; the run waits 600" in waits.finding
    fewer = LaunchConfig(launcher="ray", workers=8, min_workers=4)
    (enough,) = ray_answers(finetuning(1).model_copy(update={"launch": fewer}))
    assert enough.level == "ok", "the run would start, with four"
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert [check.level for check in ray_answers(finetuning(2))] == ["ok", "warning"]
    Cluster(monkeypatch, None)
    (silent,) = ray_answers(finetuning(2))
    assert silent.level == "error" and "does not answer: no route to host" in silent.finding


def test_gpus_that_the_run_leaves_idle_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    launch = {"launcher": "ray", "workers": 8, "use_gpu": True}
    Cluster(monkeypatch, 64, gpus=15)
    assert [check.level for check in ray_answers(launching(**launch))] == ["ok"]
    Cluster(monkeypatch, 64, gpus=16)
    _, idle = ray_answers(launching(**launch))
    assert idle.level == "warning" and "the cluster has 16 GPUs; raise it" in idle.finding
    assert len(list(ray_answers(launching(**launch | {"use_gpu": False})))) == 1


def test_a_file_of_sqlite_that_several_machines_write_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Cluster(monkeypatch, 4, nodes=1)
    assert len(list(ray_answers(finetuning(2)))) == 1
    Cluster(monkeypatch, 4, nodes=2)
    _, found = ray_answers(finetuning(2))
    assert (found.level, found.subject) == ("warning", "mlflow") and "a server" in found.finding
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert len(list(ray_answers(finetuning(2)))) == 1
