"""A registered model answers over HTTP, and needs nothing but what it says it needs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from mlflow.artifacts import download_artifacts

from embre.register import register_run
from embre.tracking.registry import EXAMPLE, MODEL_FILES, REQUIREMENTS, tracking_at
from tests.test_layers import libraries_below
from tests.tracking.finished_runs import finished_run

START_S = 120


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store with a relation model under the name `embre-test`."""
    folder = tmp_path_factory.mktemp("store")
    return register_run(finished_run(folder, "one", 0.5), "embre-test", "champion").uri


@pytest.fixture(scope="module")
def model(store: str) -> Path:
    """The files of that version."""
    with tracking_at(store):
        return Path(download_artifacts("models:/embre-test@champion"))


def test_the_requirements_are_what_ran_and_no_more(model: Path) -> None:
    lines = (model / "requirements.txt").read_text().split()
    named = dict(line.split("==") for line in lines)
    assert set(named) == {*REQUIREMENTS, "mlflow"}
    assert all(number == version(name).split("+")[0] for name, number in named.items())


def test_a_version_holds_no_pickle_and_says_what_goes_in_and_out(model: Path) -> None:
    assert not [path for path in model.rglob("*") if path.suffix in (".pkl", ".pickle", ".bin")]
    for path in model.rglob("*"):
        assert not path.is_file() or path.read_bytes()[:1] != b"\x80", f"{path.name} is a pickle"
    told = yaml.safe_load((model / "MLmodel").read_text())
    assert "python_model" not in told["flavors"]["python_function"]
    assert json.loads(told["signature"]["inputs"]) == [{"type": "string", "required": True}]
    columns = json.loads(told["signature"]["outputs"])[0]["properties"]
    assert {"document", "type", "first", "second", "novel", "probability"} <= set(columns)
    assert told["saved_input_example_info"]


@pytest.mark.parametrize("start", MODEL_FILES.values())
def test_what_a_model_imports_is_among_its_requirements(start: str) -> None:
    owners, given = packages_distributions(), {*REQUIREMENTS, "mlflow"}
    named = libraries_below(f"tracking.{Path(start).stem}")
    others = {name for name in named if name in owners}
    assert {"torch", "transformers"} <= others
    if start == MODEL_FILES["relation_model"]:  # what its last modules import
        assert {"safetensors", "numpy", "isal"} <= others
    assert not [n for n in others if not given & {owner.lower() for owner in owners[n]}]


@pytest.mark.slow
def test_a_served_model_answers_pubtator_text_with_a_table(store: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve"]
    command += ["-m", "models:/embre-test@champion", "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=tmp_path,
            env={**os.environ, "MLFLOW_TRACKING_URI": store, "PATH": path},
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/ping", server, tmp_path / "log")
        asked = urllib.request.Request(
            f"{address}/invocations",
            json.dumps({"inputs": EXAMPLE}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            rows = json.load(answer)["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    assert len(rows) == 1 and rows[0]["document"] == "1"
    assert {rows[0]["first"], rows[0]["second"]} == {"673", "MESH:D008545"}
    assert isinstance(rows[0]["novel"], bool) and 0 < rows[0]["probability"] < 1


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers; what it said is the message of the failure where it does not."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the server did not start: {log.read_text()[-3000:]}")
