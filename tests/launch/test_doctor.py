"""What the doctor says of a cluster, of stale locks and of what a run will take."""

import os
import time
from pathlib import Path

import pytest
import ray

from embre.config import FinetuneConfig, PretrainConfig, check_config
from embre.launch import estimate as estimating
from embre.launch.doctor import STALE_AFTER_S, compiled_ops, expected, ray_cluster
from embre.launch.estimate import estimate
from tests.shard_sets import write_shards


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
    gpu = estimate(pretraining(shards, launch={"use_gpu": True}))
    assert gpu.seconds < one.seconds / 1000


def test_a_run_that_does_not_fit_is_an_error(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert expected(pretraining(shards)).level == "ok"
    monkeypatch.setattr(os, "sysconf", lambda name: 1)
    found = expected(pretraining(shards))
    assert found.level == "error" and "lower data.strip_tokens" in found.finding


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
    """What the doctor asks Ray for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cpus: float | None):
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        monkeypatch.setattr(ray, "init", self.init)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": cpus})
        self.cpus = cpus

    def init(self, address: str, **_: object) -> None:
        if self.cpus is None:
            raise ConnectionError("no route\nto host")


def test_a_cluster_is_asked_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert list(ray_cluster(finetuning(2))) == []
    Cluster(monkeypatch, 4)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert [check.level for check in ray_cluster(finetuning(2))] == ["ok"]
    (lacking,) = ray_cluster(finetuning(8))
    assert lacking.level == "error" and "8 workers need more CPU" in lacking.finding
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert [check.level for check in ray_cluster(finetuning(2))] == ["ok", "warning"]
    Cluster(monkeypatch, None)
    (silent,) = ray_cluster(finetuning(2))
    assert silent.level == "error" and "does not answer: no route to host" in silent.finding
