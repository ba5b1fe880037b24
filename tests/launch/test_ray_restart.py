"""A worker that is killed under Ray changes nothing: neither data nor losses nor weights."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console

from embre.config import PretrainConfig, check_config
from embre.job import Job
from embre.launch.driver import run_job
from embre.pretrain import pretrain
from embre.sharding.shard import ShardSettings
from embre.tracking import read_events
from embre.world import World
from tests.ranks import run_ranks
from tests.shard_sets import write_shards

SETTINGS = ShardSettings(
    block_documents=5, shard_documents=10, validation_share=0.15, vocabulary=400
)


def config_of(folder: Path) -> PretrainConfig:
    values = {
        "name": "small",
        "storage": str(folder / "runs"),
        "encoder": {
            "path": str(folder / "shards/tokenizer"),
            "new": {"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 16},
            "dropout": 0.1,
        },
        "data": {
            "shards": str(folder / "shards"),
            "streams": 2,
            "strip_tokens": 400,
            "max_document_tokens": 128,
            "loader_workers": 1,
        },
        "entities": {"dimension": 8},
        "train": {
            "steps": 6,
            "save_every_steps": 1,
            "log_every_steps": 1,
            "validate_every_steps": 6,
        },
        "launch": {"launcher": "ray", "workers": 2, "max_failures": 1},
    }
    return check_config(PretrainConfig, values, "test")


def undisturbed(world: World, config: PretrainConfig, folder: str) -> None:
    pretrain(Job(config, Path(folder), None), world)


def steps_of(folder: Path) -> dict[int, list[float]]:
    """The hash of the data and the losses of each step, as it was done last."""
    return {
        event["step"]: [event["data"], *(event[k] for k in sorted(event) if k.startswith("loss/"))]
        for event in read_events(folder, "step")
    }


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_whose_worker_is_killed_equals_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    write_shards(tmp_path, 60, SETTINGS)
    config, whole = config_of(tmp_path), tmp_path / "whole"
    whole.mkdir()
    here = config.data.model_copy(update={"loader_workers": 0})  # nor a process that reads
    run_ranks(undisturbed, 2, config.model_copy(update={"data": here}), str(whole))

    monkeypatch.setenv("EMBRE_FAULT", "step:4:kill9:1")
    folder = run_job("pretrain", config, Console(quiet=True))
    begun = [event["step"] for event in read_events(folder, "started")]
    assert begun in ([0, 2], [0, 3]), "the save of step 3 waited for that of step 2"
    assert steps_of(folder) == steps_of(whole) and len(steps_of(whole)) == 6
    for name in ("model.safetensors", "entity_head.safetensors"):
        ours, theirs = (one / "encoder" / name for one in (folder, whole))
        assert ours.read_bytes() == theirs.read_bytes(), name

    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiments = [found.experiment_id for found in client.search_experiments()]
    assert [run.info.status for run in client.search_runs(experiments)] == ["FINISHED"]
