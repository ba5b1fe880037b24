"""What the local launcher makes of a recipe that fails: the same as the one of Ray does."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from embre.config import PretrainConfig, check_config, dump_config
from embre.interrupts import Interrupted
from embre.job import Job
from embre.launch.errors import RunFailed
from embre.launch.local import run_local
from embre.sharding.shard import ShardSettings
from embre.tracking import read_events
from embre.world import ALLOCATOR_VARIABLES, World
from tests.launch.stand_ins import config_of
from tests.shard_sets import write_shards

FULL = OSError(errno.ENOSPC, "No space left on device")


def job_in(folder: Path) -> Job:
    values = {
        "name": "small",
        "encoder": {"path": "-"},
        "data": {"shards": "-"},
        "train": {"steps": 1},
    }
    return Job(check_config(PretrainConfig, values, "test"), folder, None)


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (ValueError("train-000001.tar is damaged"), RunFailed, "small: train-000001.tar is damag"),
        (FULL, RunFailed, "small: .*No space left"),
        (Interrupted("stopped after step 3"), Interrupted, "stopped after step 3"),
        (KeyError("a bug"), KeyError, "a bug"),
    ],
)
def test_a_recipe_that_fails_is_a_run_that_failed_and_no_wrong_request(
    tmp_path: Path, error: Exception, raised: type[Exception], said: str
) -> None:
    def recipe(job: Job, world: World) -> None:
        raise error

    with pytest.raises(raised, match=said):
        run_local(recipe, job_in(tmp_path))


@pytest.mark.parametrize("given", [None, *ALLOCATOR_VARIABLES])
def test_gpu_memory_grows_by_segments_unless_the_user_sets_another_allocator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    for name in ALLOCATOR_VARIABLES:
        monkeypatch.setenv(name, "max_split_size_mb:64")  # undone after the test
        if name != given:
            monkeypatch.delenv(name)
    found = []

    def recipe(job: Job, world: World) -> None:
        found.append({n: os.environ[n] for n in ALLOCATOR_VARIABLES if n in os.environ})

    run_local(recipe, job_in(tmp_path))
    expandable = {ALLOCATOR_VARIABLES[0]: "expandable_segments:True"}
    assert found == [{given: "max_split_size_mb:64"} if given else expandable]


@pytest.mark.slow
def test_torchrun_carries_a_run_out_and_a_rank_that_hangs_is_named(tmp_path: Path) -> None:
    settings = ShardSettings(
        block_documents=5, shard_documents=10, validation_share=0.15, vocabulary=400
    )
    write_shards(tmp_path, 60, settings)
    shape = {"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 16}
    config = config_of(
        str(tmp_path / "runs"),
        encoder={"path": str(tmp_path / "shards/tokenizer"), "new": shape},
        data={"shards": str(tmp_path / "shards"), "streams": 2, "strip_tokens": 512},
        launch={"step_timeout_s": 8},
    )
    (tmp_path / "tiny.yaml").write_text(dump_config(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["-m", "embre", "pretrain", str(tmp_path / "tiny.yaml"), "launch.workers=2"]
    left_out = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    environ = {key: value for key, value in os.environ.items() if key not in left_out}
    environ |= {"EMBRE_FAULT": "step:3:sleep:1", "OMP_NUM_THREADS": "1"}  # for twenty seconds
    root, codes = Path(__file__).resolve().parents[2], []
    for _ in range(2):
        done = subprocess.run(
            command, env=environ, cwd=root, capture_output=True, text=True, timeout=240
        )
        codes.append(done.returncode)
    assert codes == [1, 0], done.stderr
    folder = tmp_path / "runs" / "small"
    first, second = read_events(folder, "started")
    assert (first["world_size"], second["world_size"]) == (2, 2)
    assert second["why"].startswith("rank 1: hung in faults.py"), second
    assert "_execute" in (folder / "stacks-1.txt").read_text()
    assert (folder / "encoder" / "config.json").exists()
    assert "workers: 2" in (folder / "config.yaml").read_text()
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiments = [found.experiment_id for found in client.search_experiments()]
    assert [run.info.status for run in client.search_runs(experiments)] == ["FINISHED"]
