"""No secret in what is written down, and no code out of a registered model."""

import os
import pickle
import re
from io import StringIO
from pathlib import Path

import mlflow
import pytest
import torch
from rich.console import Console

from embre.config import ConfigError, PretrainConfig, check_config
from embre.launch.driver import run_job
from embre.provenance import folder_digest
from embre.register import register_run
from embre.relations.model_folder import load_relation_model
from embre.tracking.registry import fetch, tracking_at
from embre.tracking.runs import quiet_mlflow
from tests.shard_sets import write_shards
from tests.test_pretrain import config_of
from tests.tracking.finished_runs import finished_run

CANARY = "canary8f3e1b"
SECRETS = [
    f"https://me:{CANARY}@host/shards",
    f"https://{CANARY}@host/shards",
    f"https://bucket.s3.amazonaws.com/shards?X-Amz-Signature={CANARY}",
    f"https://host/shards?user=me&password={CANARY}",
    f"https://host/shards?token={CANARY}",
    "s3://AKIAABCDEFGHIJKLMNOP/shards",
    f"hf_{CANARY}{CANARY}",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_in_a_config_is_refused_and_neither_shown_nor_written(
    tmp_path: Path, secret: str
) -> None:
    values = {
        "name": "secret",
        "storage": str(tmp_path / "runs"),
        "encoder": {"path": "bert"},
        "data": {"shards": secret, "streams": 1},
        "train": {"steps": 1},
    }
    console = Console(file=StringIO())
    with pytest.raises(ConfigError, match=r"^data\.shards: ") as refused:
        run_job("pretrain", check_config(PretrainConfig, values, "test"), console)
    assert CANARY not in str(refused.value) and "AKIA" not in str(refused.value)
    assert not (tmp_path / "runs" / "secret").exists()


@pytest.mark.parametrize("key", ["storage", "encoder.path", "tracking.uri"])
def test_what_else_is_wrong_with_a_value_does_not_show_its_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    section, _, last = key.partition(".")
    secret = f"https://me:{CANARY}@h/x"
    values = {
        "name": "secret",
        "encoder": {"path": "bert"},
        "data": {"shards": "pipe:true", "streams": 1},
        "train": {"steps": 1},
    }
    values[section] = {last: secret} if last else secret
    console = Console(file=StringIO())
    with pytest.raises(
        ConfigError, match=rf"^{re.escape(key)}: contains a URL with a password"
    ) as refused:
        run_job("pretrain", check_config(PretrainConfig, values, "test"), console)
    assert CANARY not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_what_a_run_with_secrets_about_it_registers_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, CANARY)
    register_run(finished_run(tmp_path, "one", 0.5), "m", "champion")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in files) and len(files) > 100
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]


def test_what_a_whole_run_writes_has_no_secret_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under Ray: tests/launch/test_ray_failure.py."""
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MY_API_KEY"):
        monkeypatch.setenv(name, CANARY)
    write_shards(tmp_path, 12)
    config = config_of(
        tmp_path / "shards",
        storage=str(tmp_path / "runs"),
        train={"steps": 2, "save_every_steps": 1, "log_every_steps": 1},
        launch={"launcher": "local"},
    )
    said = StringIO()
    run = run_job("pretrain", config, Console(file=said))
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"mlflow.db", "events.jsonl", "config.yaml", "rank-000.safetensors"} <= names
    assert (run / "encoder").is_dir()
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    assert CANARY not in said.getvalue()


class Evil:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.canary),)


def test_a_registered_model_that_was_tampered_with_runs_nothing(tmp_path: Path) -> None:
    """`fetch` takes files and never loads a pyfunc; the folder's own reader takes no code."""
    quiet_mlflow()
    run, canary = finished_run(tmp_path, "one", 0.5), tmp_path / "canary"
    model = run / "relation_model"
    (model / "python_model.pkl").write_bytes(pickle.dumps(Evil(canary)))
    config = (model / "config.json").read_text()
    told = (
        '{"auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}, "trust_remote_code": true,'
    )
    (model / "config.json").write_text(config.replace("{", told, 1))
    (model / "evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nC = M = object\n")
    uri = register_run(run, "m", "champion").uri
    copied = fetch("models:/m@champion", uri, tmp_path / "copied")
    assert folder_digest(copied) == folder_digest(model)
    with pytest.raises(ValueError, match=r"config\.json: the key 'auto_map'"):
        load_relation_model(copied, torch.device("cpu"))
    assert not canary.exists()


def test_a_pickled_model_of_the_registry_is_not_unpickled(tmp_path: Path) -> None:
    quiet_mlflow()
    canary, uri = tmp_path / "canary", f"sqlite:///{tmp_path}/mlflow.db"
    saved = tmp_path / "saved"
    with tracking_at(uri):
        mlflow.pyfunc.save_model(saved, python_model=Plain(), pip_requirements=["mlflow"])
        (saved / "python_model.pkl").write_bytes(pickle.dumps(Evil(canary)))
        with pytest.raises(Exception, match="(?i)pickle"):
            mlflow.pyfunc.load_model(str(saved))
    assert not canary.exists()


class Plain(mlflow.pyfunc.PythonModel):
    def predict(self, context: object, model_input: list[str]) -> list[str]:
        return model_input
