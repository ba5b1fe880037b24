"""A rank that raises under Ray: its traceback is in the run's folder, named and without secrets."""

import os
from io import StringIO
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console

from embre.config import PretrainConfig
from embre.job import Job
from embre.launch import driver
from embre.launch.errors import RunFailed
from embre.tracking import read_events
from embre.tracking.runs import remembered
from embre.world import World
from tests.launch.stand_ins import config_of, recipe

SECRET = "AWS_SECRET_ACCESS_KEY"
OTHERS = ("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MY_API_KEY")


def name_secrets(job: Job, world: World) -> None:
    try:
        recipe(job, world)
    except RuntimeError as fault:
        if "injected fault" not in str(fault):
            raise
        raise RuntimeError(f"403 for https://me:canary@host/a with {os.environ[SECRET]}") from fault


@pytest.mark.slow
@pytest.mark.ray
def test_the_rank_that_raises_is_named_with_its_traceback_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = driver.Kind(PretrainConfig, name_secrets, lambda config: {})
    monkeypatch.setitem(driver.KINDS, "pretrain", kind)
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EMBRE_FAULT", "step:2:raise:1")
    monkeypatch.setenv(SECRET, "canary+of/the/environment")
    for name in OTHERS:
        monkeypatch.setenv(name, f"canary of {name}")
    said = Console(file=StringIO())
    (tmp_path / "backbone").mkdir()
    launch = {"launcher": "ray", "workers": 2, "max_failures": 0}
    with pytest.raises(RunFailed, match="small: rank 1: RuntimeError: 403 for") as found:
        driver.run_job("pretrain", config_of(str(tmp_path), launch=launch), said)

    folder, name = tmp_path / "small", "failures/attempt-1-rank-1.txt"
    told = (folder / name).read_text()
    assert "in fault_point" in told and "RuntimeError: injected fault at step" in told
    assert f"RuntimeError: 403 for https://host/a with [{SECRET}]" in told
    (note,) = found.value.__notes__
    assert note.startswith(f"traceback in {folder / name}")
    (failed,) = read_events(folder, "failed")
    assert failed["tracebacks"][0] == name and f"[{SECRET}]" in failed["why"]
    assert "canary" not in str(found.value) + said.file.getvalue()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"mlflow.db", "events.jsonl", "config.yaml", "rank-000.safetensors"} <= {
        path.name for path in files
    }
    assert list(folder.glob("attempts/*/ray/*"))
    assert [path for path in files if b"canary" in path.read_bytes()] == []
    handle = remembered(folder)
    assert handle is not None
    client = MlflowClient(handle.uri)
    assert client.get_run(handle.run_id).info.status == "FAILED"
    assert Path(name).name in {file.path for file in client.list_artifacts(handle.run_id)}
