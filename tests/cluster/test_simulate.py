"""The rehearsal, and the job server of a real cluster: exit codes, Ctrl-C, tokens, secrets."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
import yaml
from simulate import RayCluster, main, rehearsal_cluster
from typer.testing import CliRunner

from embre.corpora import write_pubtator
from embre.demo.corpus import make_corpus
from embre.sharding.shard import ShardSettings, shard
from embre.tracking import read_events

ROOT = Path(__file__).resolve().parents[2]
SEND = """
import json, signal, sys
from pathlib import Path
from job_package import Package
from submit import Submission, send
# Where the tests run in the background of a shell, interrupts would be ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
asked = json.loads(sys.argv[1])
job = Submission(asked["id"], asked["entrypoint"], {"embre.run": "r", "embre.storage": "/s"},
                 {"RAY_JOB_STOP_WAIT_TIME_S": "20"}, Package(Path(asked["zip"]), ()))
try:
    sys.exit(send(job, asked["address"]))
except ValueError as error:
    sys.exit(f"refused: {error}")
"""


def test_a_url_or_a_file_as_an_output_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    Path("file").touch()
    app = typer.Typer()
    app.command()(main)
    for out, why in (("s3://bucket/set", "is a URL"), ("file", "is a file")):
        result = CliRunner().invoke(app, ["--out", out])
        assert result.exit_code == 2 and why in result.output
    assert os.listdir() == ["file"]


@pytest.mark.slow
@pytest.mark.ray
def test_the_rehearsal_goes_the_whole_way_on_two_nodes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, str(ROOT / "cluster/simulate.py"), "--steps", "6", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    encoder = out / "runs/demo-encoder"
    assert [event["world_size"] for event in read_events(encoder, "started")] == [2]
    assert [event["step"] for event in read_events(encoder, "finished")] == [6]
    assert (out / "runs/demo-relations/scores.json").exists()
    assert "embre-demo version 1" in done.stdout and "seconds" in done.stdout
    assert left_processes(out) == []


def left_processes(folder: Path) -> list[str]:
    """Processes that name a folder, and go on doing so for some seconds: Ray's dashboard has some
    of its own, which end by themselves when it has gone."""
    deadline = time.monotonic() + 10
    while (found := processes_that_name(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def processes_that_name(folder: Path) -> list[str]:
    """Processes that have a folder in their command or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            command = (process / "cmdline").read_bytes()
            if str(folder).encode() in command + (process / "environ").read_bytes():
                found.append(command.decode().replace("\0", " "))
        except OSError:  # it has just ended, or is another user's
            continue
    return found


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def sender(cluster: RayCluster, folder: Path, job: str, entrypoint: str) -> "subprocess.Popen[str]":
    zipped = folder / "job.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.txt", "of the package\n")
    asked = {"id": job, "entrypoint": entrypoint, "zip": str(zipped), "address": cluster.dashboard}
    return subprocess.Popen(
        [sys.executable, "-u", "-c", SEND, json.dumps(asked)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**cluster.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'cluster'}"},
    )


def status(cluster: RayCluster, headers: dict[str, str]) -> int:
    """What the job server answers to a list of jobs."""
    try:
        request = urllib.request.Request(f"{cluster.dashboard}/api/jobs/", headers=headers)
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A cluster of one node, which leaves nothing behind."""
    with rehearsal_cluster(nodes=1) as started:
        yield started
    assert not started.folder.exists() and left_processes(started.folder) == []


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_that_failed_goes_on_where_it_stopped_when_it_is_sent_again(
    cluster: RayCluster, tmp_path: Path
) -> None:
    docs = make_corpus(60, seed=3)
    write_pubtator(tmp_path / "corpus.PubTator", docs)
    settings = ShardSettings(block_documents=5, shard_documents=10, vocabulary=400)
    shard([str(tmp_path / "corpus.PubTator")], tmp_path / "shards", None, [], settings)
    values = {
        "name": "again",
        "storage": "runs",
        "encoder": {"path": "shards/tokenizer", "new": {"layers": 1, "hidden": 16, "heads": 2}},
        "data": {"shards": "shards", "streams": 2, "strip_tokens": 400, "max_document_tokens": 128},
        "entities": {"dimension": 8},
        "train": {"steps": 8, "save_every_steps": 3, "validate_every_steps": 8},
        "launch": {"max_failures": 0},
    }
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(values))
    send = [sys.executable, str(ROOT / "cluster/submit.py"), "pretrain"]
    send += [str(tmp_path / "again.yaml"), "--root", str(tmp_path)]
    send += ["--address", cluster.dashboard]
    environ = {**cluster.environ, "PYTHONPATH": str(ROOT), "EMBRE_FAULT": "step:5:raise"}
    done = subprocess.run(
        [*send, "--env", "EMBRE_FAULT"], capture_output=True, text=True, env=environ
    )
    assert done.returncode == 1, done.stdout + done.stderr
    done = subprocess.run(send, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    starts = [event["step"] for event in read_events(tmp_path / "runs/again", "started")]
    assert starts == [0, 3], "the second job began at the checkpoint of step 3"


@pytest.mark.slow
@pytest.mark.ray
def test_a_cluster_takes_jobs_with_its_token_only_and_their_ends_come_back(
    cluster: RayCluster, tmp_path: Path
) -> None:
    token = Path(cluster.environ["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o077 == 0
    secret = token.read_text()
    assert status(cluster, {}) == 401
    assert status(cluster, {"Authorization": "Bearer wrong"}) == 403
    assert status(cluster, {"Authorization": f"Bearer {secret}"}) == 200
    port = int(cluster.dashboard.rsplit(":")[-1])
    with pytest.raises(ConnectionRefusedError):  # it listens on 127.0.0.1 alone
        socket.create_connection(("127.0.0.9", port), timeout=5)
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    others = replace(cluster, environ={**cluster.environ, "RAY_AUTH_TOKEN_PATH": str(wrong)})
    said, _ = sender(others, tmp_path, "r-0", "true").communicate(timeout=120)
    assert "refuses the token" in said and secret not in said

    failing = sender(cluster, tmp_path, "r-1", "cat a.txt; exit 7")
    said, _ = failing.communicate(timeout=120)
    assert failing.returncode == 7 and "of the package" in said

    waiting = sender(cluster, tmp_path, "r-2", "echo started; exec sleep 300")
    assert waiting.stdout is not None
    assert any("started" in line and "echo" not in line for line in waiting.stdout)
    second = sender(cluster, tmp_path, "r-3", "true")
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 1 and "a job of this run is running, r-2" in said
    waiting.send_signal(signal.SIGINT)
    said, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 130 and "ray job stop" in said

    def job() -> dict[str, str]:
        return cluster.ask("/api/jobs/r-2")

    assert job()["status"] == "RUNNING"
    stop = [str(Path(sys.executable).with_name("ray")), "job", "stop", "--no-wait", "r-2"]
    stop += ["--address", cluster.dashboard]
    subprocess.run(stop, check=True, capture_output=True, env=cluster.environ)
    deadline = time.monotonic() + 60
    while job()["status"] == "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert job()["status"] == "STOPPED"

    assert secret not in json.dumps(cluster.ask("/api/jobs/"))
    logs = cluster.folder / "ray"
    assert {"gcs_server.out", "raylet.out", "dashboard.log"} <= {f.name for f in files(logs)}
    (logs / "canary").write_text(f"a log with {secret}")
    told = [file.name for file in files(logs) if secret.encode() in file.read_bytes()]
    assert told == ["canary"]
