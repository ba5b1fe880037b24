"""`cluster/submit.py`: what it would send, what it refuses, and how a job's end becomes its own."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jobs
import pytest
import submit
from jobs import check_address, follow, is_unencrypted, running_job
from submit import KINDS, prepare, shared_paths
from typer.testing import CliRunner

from embre.cli.app import app
from embre.config import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for kind in KINDS for path in (ROOT / "configs" / kind).glob("*.yaml"))
BASE = ROOT / "configs/pretrain/base.yaml"


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cluster/submit.py"), *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(command, capture_output=True, text=True, env=env)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_dry_run_of_every_shipped_config(config: Path, tmp_path: Path) -> None:
    kind = config.parent.name
    done = run(kind, str(config), "--root", "/mnt/embre", "--dry-run")
    assert done.returncode == 0, done.stderr
    sent = json.loads(done.stdout)
    python, _, module, asked, name, *overrides = shlex.split(sent["entrypoint"])
    assert (python, module, asked) == ("python", "embre", kind)
    assert name in sent["runtime_env"]["working_dir"]
    assert sent["runtime_env"]["env_vars"].keys() == {"RAY_JOB_STOP_WAIT_TIME_S"}
    assert sent["working_dir_bytes"] < 10 << 20
    # On the cluster the same config is read, and every path in it is absolute.
    arrived = load_config(KINDS[kind], ROOT / name, overrides)
    assert arrived.storage == "/mnt/embre/runs" == sent["metadata"]["embre.storage"]
    assert arrived.launch.launcher == "ray" and arrived.encoder.path.startswith("/mnt/embre/")
    assert shared_paths(arrived, root=None) == []
    assert arrived.fingerprint() == load_config(KINDS[kind], config).fingerprint()


def made(
    out: Path, config: Path = BASE, overrides: tuple[str, ...] = (), names: tuple[str, ...] = ()
) -> submit.Submission:
    return prepare(
        "pretrain", config, list(overrides), "/mnt/embre", list(names), out / "project.zip"
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("train", "configs/pretrain/base.yaml", "--dry-run"), "pretrain, finetune"),
        (("pretrain", "configs/no.yaml", "--dry-run"), "no such config"),
        (("pretrain", "configs/pretrain/base.yaml", "--dry-run"), "storage=runs, encoder.path="),
        (("pretrain", "configs/pretrain/base.yaml", "--root", "a", "--dry-run"), "absolute path"),
        (("pretrain", "configs/pretrain/base.yaml", "--root", "/a"), "give --address"),
        (("pretrain", "configs/pretrain/base.yaml", "trian.steps=1", "--dry-run"), "mean train"),
    ],
)
def test_what_cannot_be_sent_ends_with_two_and_the_remedy(
    arguments: tuple[str, ...], why: str
) -> None:
    done = run(*(str(ROOT / part) if part.startswith("configs") else part for part in arguments))
    assert done.returncode == 2 and why in done.stderr, done.stderr


def test_an_override_reaches_the_job_as_it_was_typed(tmp_path: Path) -> None:
    evil = "name=a$(touch hacked);b"
    with pytest.raises(ValueError, match="name"):
        made(tmp_path, overrides=(evil,))
    path = "data.shards=/mnt/a b/$(touch hacked)"
    job = made(tmp_path, overrides=(path,))
    assert path in shlex.split(job.entrypoint)


def test_a_change_that_is_allowed_here_is_allowed_to_the_job() -> None:
    done = run(
        *("pretrain", str(BASE), "train.steps=9", "--allow-change", "train.steps"),
        *("--allow-change", "optimizer.peak_lr", "--root", "/mnt/embre", "--dry-run"),
    )
    assert done.returncode == 0, done.stderr
    job = shlex.split(json.loads(done.stdout)["entrypoint"])[3:]
    assert job[-2:] == ["--allow-change=train.steps", "--allow-change=optimizer.peak_lr"]
    parsed = CliRunner().invoke(app, [job[0], str(BASE), *job[2:], "--print-config"])
    assert parsed.exit_code == 0, parsed.stderr


def test_deepspeed_settings_of_a_file_here_reach_the_job(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 2}}')
    job = made(tmp_path, overrides=(f"deepspeed={tmp_path}/ds.json",))
    (tmp_path / "ds.json").unlink()
    _, _, _, kind, name, *overrides = shlex.split(job.entrypoint)
    sent = [text for text in overrides if "ds.json" not in text]
    assert load_config(KINDS[kind], ROOT / name, sent).zero_stage == 2
    assert load_config(KINDS[kind], ROOT / name, overrides).zero_stage == 2


def test_nothing_in_the_environment_sends_job_and_token_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray.job_submission

    seen: list[tuple[str, set[str]]] = []
    others = {"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"}
    for name in others:
        monkeypatch.setenv(name, "http://elsewhere:8265")
    monkeypatch.setattr(
        ray.job_submission,
        "JobSubmissionClient",
        lambda address: seen.append((address, others & os.environ.keys())),
    )
    jobs.connect("http://here:8265")
    assert seen == [("http://here:8265", set())], "Ray prefers theirs to the address it is given"


def test_a_server_that_does_not_respond_is_refused_with_the_way_to_it() -> None:
    with pytest.raises(ConnectionError, match=r"^http://127.0.0.1:9 does not .*`ray dashboard"):
        jobs.connect("http://127.0.0.1:9")


def test_one_storage_is_one_run_however_it_is_spelt(tmp_path: Path) -> None:
    plain, other = (
        made(tmp_path, overrides=(f"storage={storage}",))
        for storage in ("/mnt/embre/runs", "/mnt//embre/./runs/")
    )
    assert plain.metadata == other.metadata


def test_a_tracking_file_that_only_the_head_would_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tracking.uri: a relative file"):
        made(tmp_path, overrides=("tracking.uri=sqlite:///runs/mlflow.db",))


def test_no_secret_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = "canary-0123456789"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", canary)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://me:{canary}@mlflow")
    for case in (
        {"overrides": (f"tracking.experiment={canary}",)},
        {"overrides": ("tracking.uri=https://me:hunter22@mlflow",)},
        {"names": ("AWS_SECRET_ACCESS_KEY",)},
        {"names": ("MLFLOW_TRACKING_URI",)},
    ):
        with pytest.raises(ValueError) as refused:
            made(tmp_path, **case)
        assert canary not in str(refused.value) and "hunter22" not in str(refused.value)
    config = tmp_path / "c.yaml"
    config.write_text(BASE.read_text() + f"# my key: {canary}\n")
    with pytest.raises(ValueError, match="AWS_SECRET_ACCESS_KEY"):
        made(tmp_path, config)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    job = made(tmp_path, names=("MLFLOW_TRACKING_URI",))
    assert job.env_vars["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert canary not in job.shown(None)
    assert canary.encode() not in (tmp_path / "project.zip").read_bytes()


def test_addresses() -> None:
    assert check_address("127.0.0.1:8265/") == "http://127.0.0.1:8265"
    assert not is_unencrypted("http://127.0.0.1:8265")
    assert not is_unencrypted("https://ray.example.org")
    assert is_unencrypted("http://10.0.0.4:8265")
    assert is_unencrypted("http://localhost.example.org:8265")
    for wrong in ("ray://head:10001", "http://me:hunter22@head:8265"):
        with pytest.raises(ValueError) as refused:
            check_address(wrong)
        assert "hunter22" not in str(refused.value)


class Status(str):
    def is_terminal(self) -> bool:
        return self not in ("PENDING", "RUNNING")


class Client:
    """A job server whose job says some lines and ends; the connection breaks in between."""

    def __init__(self, end: str, code: int | None) -> None:
        self.log, self.end, self.code, self.asked = "one\ntwo\nthree\n", end, code, 0

    async def tail_job_logs(self, job: str) -> Any:
        self.asked += 1
        yield None
        yield "one\n"
        if self.asked == 1:
            raise RuntimeError("the connection broke")
        yield "two\nthree\n"

    def get_job_info(self, job: str) -> Any:
        return SimpleNamespace(
            status=Status(self.end), driver_exit_code=self.code, message="node lost"
        )


@pytest.mark.parametrize(
    ("end", "code", "exit_code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 7, 7), ("FAILED", None, 1), ("STOPPED", None, 143)],
)
def test_a_job_is_followed_over_a_broken_connection_to_its_exit_code(
    end: str,
    code: int | None,
    exit_code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "LOOK_EVERY_S", 0)
    assert follow(Client(end, code), "job") == exit_code
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_a_server_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Client):
        def get_job_info(self, job: str) -> Any:
            raise ConnectionError("no answer")

    monkeypatch.setattr(jobs, "LOOK_EVERY_S", 0)
    monkeypatch.setattr(jobs, "LOST_FOR_S", 0)
    with pytest.raises(jobs.ServerLost):
        follow(Gone("FAILED", 1), "job")


def test_only_a_job_of_the_same_run_that_has_not_ended_is_in_the_way() -> None:
    def job(name: str, storage: str, status: str) -> Any:
        metadata = {jobs.RUN: name, jobs.STORAGE: storage}
        return SimpleNamespace(submission_id=name, metadata=metadata, status=Status(status))

    def server(*found: Any) -> Any:
        return SimpleNamespace(list_jobs=lambda: found)

    others = (
        job("a", "/s", "STOPPED"),
        job("a", "/other", "RUNNING"),
        job("b", "/s", "RUNNING"),
        SimpleNamespace(submission_id=None, metadata=None, status=Status("RUNNING")),
    )
    assert running_job(server(*others), "a", "/s") is None
    assert running_job(server(*others, job("a", "/s", "PENDING")), "a", "/s") == "a"
