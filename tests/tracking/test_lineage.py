"""From a relation model back to its shard set, and from the shard set to the relation models."""

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from embre.cli import app as cli
from embre.cli.registering import show_lineage
from embre.provenance import folder_digest
from embre.register import register_run
from embre.tracking.lineage import lineage_of
from tests.tracking.finished_runs import finished_pretraining, finished_run

pytestmark = pytest.mark.slow
SHARDS = "5" * 64


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoder and two relation models on it, and one on an encoder from elsewhere."""
    folder = tmp_path_factory.mktemp("store")
    pretraining = finished_pretraining(folder, "base", SHARDS)
    uri = register_run(pretraining, "encoder", "champion").uri
    told = json.loads((pretraining / "encoder" / "embre.json").read_text())
    mine = {**told, "digest": folder_digest(pretraining / "encoder")}
    register_run(finished_run(folder, "first", 0.5, encoder=mine), "relations", None)
    register_run(finished_run(folder, "second", 0.6, encoder=mine), "relations", "champion")
    elsewhere = {"digest": "9" * 64}
    register_run(finished_run(folder, "third", 0.4, encoder=elsewhere), "plain", None)
    return uri


@pytest.mark.parametrize("name", ["relations", "encoder", SHARDS, SHARDS[:8]])
def test_the_chain_is_the_same_from_either_end(store: str, name: str) -> None:
    found = lineage_of(name, store)
    assert [(v.name, v.number) for v in found.models] == [("relations", "2"), ("relations", "1")]
    assert [(v.name, v.number, v.aliases) for v in found.encoders] == [
        ("encoder", "1", ("champion",))
    ]
    text = "\n".join(show_lineage(name, store))
    model = next(line for line in text.splitlines() if line.startswith("relations 2")).split()
    assert model[2:5] == ["champion", "0.9", "0.8"] and "second" in model
    assert model[-2:] == ["encoder", "1"]
    encoder = text.splitlines()[-1].split()
    assert encoder[:4] == ["encoder", "1", "champion", "base"] and encoder[-1] == "5" * 12


def test_an_encoder_that_is_not_registered_is_named_by_its_digest(store: str) -> None:
    *_, last = show_lineage("plain", store)
    assert last.split() == ["9" * 12, "(not", "registered)", "-", "-", "-", "-"]


def test_what_the_registry_has_not_is_said_with_what_it_has(store: str, tmp_path: Path) -> None:
    for name in ("relation", "5555", "'; DROP", "6" * 64, "%%%%%%%%%"):
        with pytest.raises(ValueError, match="names: encoder, plain, relations"):
            lineage_of(name, store)
    with pytest.raises(FileNotFoundError, match="no registry at"):
        list(show_lineage("m", f"sqlite:///{tmp_path}/none.db"))
    assert not (tmp_path / "none.db").exists()


def test_the_command_shows_it(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["embre", "register", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out + captured.err

    code, text = call("--show", "relations", "--tracking-uri", store)
    assert code == 0 and text.startswith("relation model") and f"{'5' * 12}\n" in text
    for wrong in ((), ("run",), ("--show", "relations", "run"), ("run", "--tracking-uri", store)):
        code, text = call(*wrong)
        assert code == 2 and "--show NAME" in text


def test_a_version_points_to_the_mlflow_run_that_made_it(store: str) -> None:
    (version, *_) = lineage_of("relations", store).models
    assert MlflowClient(store).get_run(version.run_id).info.run_name == "second"
