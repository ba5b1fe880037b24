"""A registered encoder loads by its alias; an exported one loads where embre is not."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import mlflow
import pytest
import torch
from mlflow.tracking import MlflowClient
from rich.console import Console

from embre.cli import app as cli
from embre.config import EncoderConfig
from embre.launch.driver import resolve, run_job
from embre.model.backbone import load_encoder
from embre.model.strip_forward import encode_strip
from embre.provenance import folder_digest
from embre.register import register_run
from embre.tokenization.tokenizer import load_tokenizer
from embre.tracking.registry import DIGEST, fetch
from embre.tracking.runs import client_of, remembered
from tests.shard_sets import write_shards
from tests.test_pretrain import config_of
from tests.tracking.finished_runs import finished_run

TEXT = "KRV2 raised the risk of Lunver fever."
WITHOUT_EMBRE = """
import json, sys
sys.modules["embre"] = None  # importing it fails
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
folder, text = sys.argv[1:]
inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
with torch.no_grad():
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    logits = model(input_ids=inputs["input_ids"]).logits
print(json.dumps([inputs["input_ids"][0].tolist(), logits[0].tolist()]))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    write_shards(folder, 12)
    config = config_of(
        folder / "shards", storage=str(folder / "runs"), train={"steps": 2, "log_every_steps": 1}
    )
    return run_job("pretrain", config, Console(file=StringIO()))


def test_a_registered_encoder_gives_vectors_and_names_its_shards(run: Path, tmp_path: Path) -> None:
    found = register_run(run, "encoder-test", "champion")
    assert "MLFLOW_TRACKING_URI" not in os.environ, "registering must not redirect other runs"
    mlflow.set_tracking_uri(found.uri)
    vectors = mlflow.pyfunc.load_model("models:/encoder-test@champion").predict([TEXT, "KRV2"])
    assert len(vectors) == 2 and len(vectors[0]) == 16
    version = MlflowClient(found.uri).get_model_version_by_alias("encoder-test", "champion")
    lineage = json.loads((run / "encoder" / "embre.json").read_text())
    assert version.tags["embre.shard_set"] == lineage["shard_set"]
    copied = fetch("models:/encoder-test@champion", found.uri, tmp_path / "encoder")
    assert (copied / "entity_head.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_a_run_keeps_its_backbone_and_takes_no_other_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetching(model_uri: str, tracking_uri: str, target: Path) -> Path:
        fetched.append(model_uri)
        target.mkdir(parents=True)
        return target

    monkeypatch.setattr("embre.launch.driver.fetch", fetching)
    for uri in ("models:/enc@champion", "models:/other@champion", "models:/enc@champion"):
        config = config_of(tmp_path, storage=str(tmp_path), encoder={"path": uri})
        found = Path(resolve(config).encoder.path)
        assert found.name == uri.removeprefix("models:/").replace("@", "-") and found.is_dir()
    assert fetched == ["models:/enc@champion", "models:/other@champion"]


def test_a_registration_leaves_the_run_as_it_ended(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = remembered(run)
    assert handle is not None
    before = MlflowClient(handle.uri).get_run(handle.run_id).info
    assert before.status == "FINISHED"
    register_run(run, "encoder-again", None)

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlflow.pyfunc.log_model", full)
    with pytest.raises(OSError, match="No space"):
        register_run(run, "encoder-never", None)
    after = MlflowClient(handle.uri).get_run(handle.run_id).info
    assert (after.status, after.end_time) == (before.status, before.end_time)


def test_a_version_whose_files_were_changed_is_not_fetched(tmp_path: Path) -> None:
    run, target = finished_run(tmp_path, "one", 0.5), tmp_path / "copied"
    uri = register_run(run, "m", "champion").uri
    digest = folder_digest(run / "relation_model")
    (stored,) = tmp_path.rglob("artifacts/**/model.safetensors")
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(data)
    changed = folder_digest(stored.parent)
    for name in ("models:/m@champion", "models:/m/1"):
        with pytest.raises(ValueError, match=f"^{name}: .*{changed}, but {digest} was registered"):
            fetch(name, uri, target)
    assert [path.name for path in tmp_path.glob("copied*")] == []
    client = MlflowClient(uri)
    client.delete_model_version_tag("m", "1", DIGEST)
    assert folder_digest(fetch("models:/m@champion", uri, target)) == changed, "nothing is known"
    client.set_model_version_tag("m", "1", DIGEST, digest)
    (stored.parent / "README.md").write_text("A card may be edited.")
    data[-1] ^= 1
    stored.write_bytes(data)
    assert fetch("models:/m@champion", uri, target) == target
    assert folder_digest(target) == digest
    with pytest.raises(ValueError, match="models:/m@other: the registry at .* has no such model"):
        fetch("models:/m@other", uri, tmp_path / "new" / "model")
    for wrong in ("models:/m/1/2", "models:/m@", "models:/", "models:/ /1", "models:/m"):
        with pytest.raises(ValueError, match="give models:/NAME@ALIAS or models:/NAME/VERSION"):
            fetch(wrong, uri, tmp_path / "new" / "model")
    assert not (tmp_path / "new").exists()


def test_an_exported_encoder_gives_our_logits_where_embre_is_not(run: Path) -> None:
    folder = run / "encoder"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EMBRE, str(folder), TEXT],
        capture_output=True,
        text=True,
        check=True,
    )
    ids, logits = json.loads(done.stdout)
    model = load_encoder(EncoderConfig(path=str(folder)), load_tokenizer(folder)).eval()
    ends = torch.tensor([0, len(ids)], dtype=torch.int32)
    with torch.no_grad():
        hidden = encode_strip(model.bert, torch.tensor(ids), torch.arange(len(ids)), ends, len(ids))
        ours = model.cls(hidden)
    torch.testing.assert_close(ours, torch.tensor(logits), atol=1e-5, rtol=1e-5)


ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


class SlowStore(BaseHTTPRequestHandler):
    """Files as a server of MLflow keeps them; for weights it takes longer than a run waits."""

    files: dict[str, bytes] = {}

    def do_PUT(self) -> None:
        self.files[self.path.removeprefix(f"{ARTIFACTS}/")] = self.rfile.read(
            int(self.headers["Content-Length"])
        )
        self.answer(b"{}")

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if asked.path != ARTIFACTS:
            self.answer(self.files[asked.path.removeprefix(f"{ARTIFACTS}/")])
            return
        within = f"{parse_qs(asked.query)['path'][0]}/"
        below = [path.removeprefix(within) for path in self.files if path.startswith(within)]
        found = {path.split("/")[0]: "/" in path for path in below}
        files = [{"path": name, "is_dir": folder} for name, folder in found.items()]
        self.answer(json.dumps({"files": files}).encode())

    def answer(self, content: bytes) -> None:
        if self.path.endswith(".safetensors"):
            time.sleep(1.5)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_model_goes_through_a_server_that_takes_longer_than_a_run_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
    monkeypatch.setattr("embre.tracking.runs.QUICK", quick)
    for name in quick:
        monkeypatch.setenv(name, "")  # which puts it back when the test is over
        monkeypatch.delenv(name)
    with ThreadingHTTPServer(("127.0.0.1", 0), SlowStore) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"sqlite:///{tmp_path}/mlflow.db"
        files = f"http://127.0.0.1:{server.server_port}{ARTIFACTS}/kept"
        client_of(uri).create_experiment("embre", artifact_location=files)
        run = finished_run(tmp_path, "slow", 0.5)
        register_run(run, "slow", "champion")
        copied = fetch("models:/slow@champion", uri, tmp_path / "copied")
        server.shutdown()
    assert folder_digest(copied) == folder_digest(run / "relation_model")
    assert {name: os.environ[name] for name in quick} == quick, "a run is quick again"


def test_a_run_that_was_moved_with_its_store_is_registered_where_the_store_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, now = tmp_path / "before", tmp_path / "now"
    finished_run(before, "moved", 0.5)
    before.rename(now)
    run, uri = now / "runs" / "moved", f"sqlite:///{now}/mlflow.db"

    def call(*options: str) -> tuple[int, str]:
        words = ["embre", "register", str(run), "--name", "moved", *options]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), capsys.readouterr().err

    code, error = call()
    assert code == 2 and f"sqlite:///{before}/mlflow.db is not here" in error
    assert "give its new place by --tracking-uri" in error and not before.exists()
    empty = f"sqlite:///{tmp_path}/empty.db"
    code, error = call("--tracking-uri", empty)
    assert code == 2 and f"its MLflow store {empty} is not here" in error
    client_of(empty).search_experiments()
    code, error = call("--tracking-uri", empty)
    assert code == 2 and f"the store {empty} has no run " in error
    code, error = call("--tracking-uri", uri)
    files = before / "runs" / "mlartifacts"
    assert code == 2 and f"keeps the artifacts of this run in {files}/" in error
    shutil.copytree(now / "runs" / "mlartifacts", files)
    assert call("--tracking-uri", uri) == (0, "")
    copied = fetch("models:/moved/1", uri, tmp_path / "copied")
    assert folder_digest(copied) == folder_digest(run / "relation_model")
