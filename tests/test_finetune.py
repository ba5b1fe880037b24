"""From annotated documents to a registered relation model and a predicted file, on one rank."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import mlflow
import numpy as np
import pytest
import ray
import torch
from mlflow.tracking import MlflowClient
from rich.console import Console
from safetensors.torch import load_file

from embre import faults, finetune
from embre.config import ConfigError, FinetuneConfig, check_config, dump_config
from embre.corpora import CORPORA, read_documents, write_pubtator
from embre.demo.corpus import make_corpus
from embre.evaluation.discrimination import discrimination
from embre.evaluation.scoring import METRICS
from embre.finetune import COUNTS, RELATION_MODEL, SCORES, check
from embre.job import Job
from embre.launch.driver import run_job
from embre.launch.request_checks import CORRECTED, check_resume
from embre.launch.tables import scores_table
from embre.model.backbone import load_encoder
from embre.register import register_run
from embre.relations.decode import score_pairs
from embre.relations.document_loader import DocumentLoader
from embre.relations.model_folder import load_relation_model
from embre.tally import Tally
from embre.tokenization.tokenizer import load_tokenizer
from embre.tracking import read_events
from embre.tracking.registry import fetch
from embre.tracking.runs import RUN_FILE
from embre.world import World
from tests.predicting import predict_inputs
from tests.ranks import run_ranks
from tests.tiny import tiny_encoder, tiny_relation_model, tiny_tokenizer

DOCS = make_corpus(36, seed=5)
ONE_TYPE = {
    "name": "one",
    "legal": {"Chemical Disease": ["x"], "Disease Gene": ["x"], "Chemical Gene": ["x"]},
    "label_map": dict.fromkeys(CORPORA["biored"].relation_types, "x"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("finetune")
    write_pubtator(found / "train.PubTator", DOCS[:24])
    first, *others = DOCS[24:]
    (one, *_) = first.relations
    itself = replace(one, tail=one.head, source_ids=None)  # scored, and no pair of ours
    first = replace(first, relations=(*first.relations, itself))
    write_pubtator(found / "dev.PubTator", [first, *others])
    tiny_tokenizer(found / "backbone", [doc.text for doc in DOCS], size=500)
    return found


def config_of(folder: Path, **sections: object) -> FinetuneConfig:
    values = {
        "name": "small",
        "storage": str(folder / "runs"),
        "encoder": {
            "path": str(folder / "backbone"),
            "new": {"layers": 1, "hidden": 32, "heads": 2, "feed_forward": 32},
        },
        "data": {"train": str(folder / "train.PubTator"), "dev": str(folder / "dev.PubTator")},
        "optimizer": {"peak_lr": 1e-2, "warmup_steps": 2},
        "train": {"steps": 6, "save_every_steps": 2, "log_every_steps": 1},
        **sections,
    }
    return check_config(FinetuneConfig, values, "test")


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    faults._armed.clear()


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A run that fails on its way and is started again."""
    config = config_of(folder)
    (folder / "runs" / "small").mkdir(parents=True)
    faults.arm("step:4:raise", folder / "runs" / "small", rank=0)
    with pytest.raises(RuntimeError, match="injected fault"):
        run_job("finetune", config, Console(file=StringIO()))
    return run_job("finetune", config, Console(file=StringIO()))


def client_of(run: Path) -> tuple[MlflowClient, str]:
    values = json.loads((run / RUN_FILE).read_text())
    return MlflowClient(values["uri"]), values["run_id"]


def test_a_failed_run_resumes_in_the_same_mlflow_run(run: Path) -> None:
    client, run_id = client_of(run)
    experiment = client.get_experiment_by_name("embre")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert [found.info.run_id for found in runs] == [run_id]
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.params["pairs.encoding"] == "document"
    assert {"embre.digest.train", "embre.digest.dev"} <= set(runs[0].data.tags)
    history = client.get_metric_history(run_id, "loss/type")
    assert sorted(point.step for point in history) == [1, 2, 3, 4, 5, 6], "each step once"
    assert [event["step"] for event in read_events(run, "started")] == [0, 2]


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    undisturbed = run_job(
        "finetune", config_of(folder, storage=str(tmp_path)), Console(file=StringIO())
    )
    weights = Path(RELATION_MODEL) / "model.safetensors"
    assert (undisturbed / weights).read_bytes() == (run / weights).read_bytes()
    assert (undisturbed / SCORES).read_text() == (run / SCORES).read_text()


def test_idle_ranks_are_refused(folder: Path) -> None:
    ray_of = {"launcher": "ray", "workers": 5}  # for the 4 micro-batches of a step
    with pytest.raises(ValueError, match="5 ranks for 4 micro-batches a step, so 1 would do noth"):
        check(config_of(folder, launch=ray_of))
    check(config_of(folder, launch=ray_of | {"workers": 4}))
    data, builder = config_of(folder).data, tiny_relation_model(folder / "backbone").builder
    with pytest.raises(ValueError, match="5 ranks for 4 micro-batches"):  # as under torchrun
        DocumentLoader(DOCS, builder, data, 1, World(rank=4, size=5), Tally())


def test_contamination_is_warned_of(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = tmp_path / "encoder"
    shutil.copytree(folder / "backbone", encoder)
    shape = tiny_encoder(encoder, max_positions=512)
    load_encoder(shape, load_tokenizer(encoder)).save_pretrained(encoder)
    told = {"run": "ours", "shard_set": "5" * 64, "steps": 7, "held_out": ["biored"]}
    (encoder / "embre.json").write_text(json.dumps(told))
    given = {"encoder": {"path": str(encoder)}, "train": {"steps": 1}, "storage": str(tmp_path)}
    known = run_job("finetune", config_of(folder, **given), Console(file=StringIO()))
    said = (
        r"12 of 12 scored documents, as \d+, are on no list .* hold out \(biored; .*\), so it may"
    )
    assert re.search(f"{said}.* shard again with --hold-out .*dev.PubTator", caplog.text)
    assert re.search(said, json.loads((known / SCORES).read_text())["contamination_warning"])
    card = (known / RELATION_MODEL / "README.md").read_text()
    assert re.search(rf"\*\*Caution\*\*: {said}", card)
    assert re.search(said, (known / "report.html").read_text())
    caplog.clear()
    told["held_out"] = ["biored", "dev.PubTator"]
    (encoder / "embre.json").write_text(json.dumps(told))
    check(config_of(folder, **given))
    assert "scored documents" not in caplog.text


def test_only_new_markers_are_initialised(
    folder: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = []
    monkeypatch.setattr(finetune, "init_markers", lambda model, _: named.append(model))
    for number, learnt in enumerate(({}, {"encoder": {"path": str(run / "relation_model")}})):
        given = {"name": f"run-{number}", "storage": str(tmp_path), "train": {"steps": 1}, **learnt}
        run_job("finetune", config_of(folder, **given), Console(file=StringIO()))
        assert len(named) == 1, "those of a relation model have been learnt"


def test_a_run_of_that_name_with_another_config_is_refused(run: Path, folder: Path) -> None:
    known = (run / "config.yaml").read_text()
    with pytest.raises(ConfigError, match="started with another config"):
        run_job("finetune", config_of(folder, seed=99), Console(file=StringIO()))
    assert (run / "config.yaml").read_text() == known


def test_a_run_without_a_checkpoint_may_be_corrected(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder, name="begun", storage=str(tmp_path), train={"steps": 1})
    begun = tmp_path / "begun"
    (begun / "checkpoints").mkdir(parents=True)
    (begun / "events.jsonl").write_text("of the other config")
    (begun / "checkpoints" / "lease").touch()  # a run that ran out of memory in its first step
    (begun / "config.yaml").write_text(dump_config(config))
    changed = config.model_copy(update={"seed": config.seed + 1})
    check_resume(config, begun)
    assert (begun / "events.jsonl").exists()
    check_resume(changed, begun)
    assert not (begun / "events.jsonl").exists()
    assert (begun / CORRECTED).read_text() == "of the other config"
    (begun / "checkpoints" / "step-000000001").mkdir()
    with pytest.raises(ConfigError, match="started with another config"):
        check_resume(changed, begun)


@pytest.mark.parametrize("torn", ["", "\0" * 9, None], ids=["empty", "zeros", "gone"])
def test_a_run_with_an_unreadable_config_is_refused(
    folder: Path, tmp_path: Path, torn: str | None
) -> None:
    (tmp_path / "checkpoints" / "step-000000001").mkdir(parents=True)
    (tmp_path / "events.jsonl").touch()
    if torn is not None:
        (tmp_path / "config.yaml").write_text(torn)
    with pytest.raises(ConfigError, match="of another kind of run or damaged .* restore that file"):
        check_resume(config_of(folder), tmp_path)
    assert (tmp_path / "events.jsonl").exists()


@pytest.mark.slow
def test_a_tracking_server_that_is_down_does_not_stop_a_run(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(
        folder, name="untracked", tracking={"uri": "http://127.0.0.1:9"}, train={"steps": 1}
    )
    found = run_job("finetune", config, Console(file=StringIO()))
    assert (found / "relation_model" / "model.safetensors").exists()
    assert "the run continues" in caplog.text


def test_the_run_leaves_scores_predictions_and_a_report(run: Path) -> None:
    values = json.loads((run / SCORES).read_text())
    assert set(values["dev"]) == set(values["floor"]) == set(METRICS)
    # Not once more for each validation.
    assert values["dropped"] == {"train": {}, "dev": {"relation/with_itself": 1}}
    counts = json.loads((run / COUNTS).read_text())
    for metric, found in values["dev_own_thresholds"].items():
        rows = np.array(counts[metric])
        assert rows.shape == (12, 3)
        assert rows.sum(0).tolist() == [found[key] for key in ("tp", "fp", "fn")]
    assert values["dev_own_thresholds"]["all"] == values["dev"]["all"]
    predicted = list(read_documents(run / "dev_predicted.PubTator", Tally()))
    assert [doc.doc_id for doc in predicted] == [doc.doc_id for doc in DOCS[24:]]
    relations = [relation for doc in predicted for relation in doc.relations]
    assert len(relations) == values["dev"]["pair"]["tp"] + values["dev"]["pair"]["fp"] > 0
    assert all(0 < (relation.probability or 0) <= 1 for relation in relations)
    assert "</html>" in (run / "report.html").read_text()
    evaluation = json.loads((run / "evaluation" / "evaluation.json").read_text())
    for metric in METRICS:
        assert evaluation["scores"][metric]["tp"] == values["dev"][metric]["tp"]
    assert evaluation["of_candidates"] and "seen in training" in evaluation["groups"]
    assert evaluation["discrimination"] == values["discrimination"]
    loaded = load_relation_model(run / RELATION_MODEL, torch.device("cpu"))
    uncalibrated = discrimination(score_pairs(loaded, DOCS[24:], Tally()))
    for name, numbers in values["discrimination"].items():
        assert numbers == pytest.approx(uncalibrated[name], abs=1e-3), name
    client, run_id = client_of(run)
    kept = {artifact.path for artifact in client.list_artifacts(run_id)}
    assert {"scores.json", "report.html", "evaluation.json", "errors.tsv", "confusion.png"} <= kept


def test_a_registered_model_loads_by_its_alias_and_reads_pubtator_text(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    found = register_run(run, "embre-test", "champion")
    assert (found.version, found.new) == ("1", True)
    assert register_run(run, "embre-test", "champion").new is False, "the same model twice"
    mlflow.set_tracking_uri(found.uri)
    version = MlflowClient(found.uri).get_model_version_by_alias("embre-test", "champion")
    assert version.tags["embre.run"] == "small" and "embre.encoder.digest" in version.tags

    model = mlflow.pyfunc.load_model("models:/embre-test@champion")
    rows = model.predict([(folder / "dev.PubTator").read_text()])
    copied = fetch("models:/embre-test@champion", found.uri, tmp_path / "model")
    result = predict_inputs(copied, [str(folder / "dev.PubTator")], tmp_path / "out", "test")
    assert result.relations == len(rows) > 0
    with pytest.raises(ValueError, match="no such model"):
        fetch("models:/nothing@champion", found.uri, tmp_path / "nothing")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_prediction_gives_back_the_same_file_byte_for_byte_with_relations(
    run: Path, folder: Path, tmp_path: Path, end: str
) -> None:
    lines = (folder / "dev.PubTator").read_text().split("\n")
    title, abstract, first, second, *rest = lines
    # Mentions out of order, one with a seventh column, one that does not fit, no last line end.
    lines = [title, abstract, second + "\tpart", first, first.replace("\t", "\t9", 2), *rest]
    given = end.join(lines).rstrip().encode()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.PubTator").write_bytes(given)
    model = run / "relation_model"
    found = predict_inputs(model, [str(tmp_path / "in")], tmp_path / "out", "test")
    written = (tmp_path / "out" / "a.PubTator").read_bytes()

    def without_relations(data: bytes) -> list[bytes]:
        columns = [(line, line.split(b"\t")) for line in data.splitlines(keepends=True)]
        return [line for line, c in columns if not (3 < len(c) < 7 and not c[1].isdigit())]

    assert (
        b"".join(without_relations(written)).strip() == b"".join(without_relations(given)).strip()
    )
    again = list(read_documents(tmp_path / "out" / "a.PubTator", Tally()))
    assert sum(len(doc.relations) for doc in again) == found.relations > 0
    num_given = 1 + sum(len(doc.relations) for doc in DOCS[24:])
    assert found.tally.counts["relation/replaced"] == num_given
    with pytest.raises(ValueError, match="folder of the input"):
        predict_inputs(
            run / "relation_model", [str(tmp_path / "in" / "a.PubTator")], tmp_path / "in", "test"
        )


def test_other_files_in_an_archive_are_skipped(run: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "README").write_text("nothing to read")
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "README", "README")
        archive.add(folder / "dev.PubTator", "dev.PubTator")
    found = predict_inputs(
        run / "relation_model", [str(tmp_path / "all.tar.gz")], tmp_path / "out", "test"
    )
    assert found.documents == 12 and [path.name for path in found.files] == ["all.tar"]


def test_training_on_scored_documents_is_refused(folder: Path) -> None:
    data = config_of(folder).data.model_dump()
    with pytest.raises(ValueError, match="share 12 documents"):
        check(config_of(folder, data=data | {"train": str(folder / "dev.PubTator")}))
    renamed = [replace(doc, doc_id=f"x{doc.doc_id}", pmid=None) for doc in DOCS[24:26]]
    write_pubtator(folder / "renamed.PubTator", DOCS[:4] + renamed)
    with pytest.raises(ValueError, match="share 2 documents by id or text, such as x"):
        check(config_of(folder, data=data | {"train": str(folder / "renamed.PubTator")}))
    (folder / "twice").mkdir()
    for name in ("a.PubTator", "b.PubTator"):
        write_pubtator(folder / "twice" / name, DOCS[:2])
    with pytest.raises(ValueError, match="2 times"):
        check(config_of(folder, data=data | {"train": str(folder / "twice")}))


def test_refusals_come_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    storage = str(tmp_path / "runs")
    for refused in ({"tracking": {"uri": "mlruns"}}, {"encoder": {"path": str(tmp_path / "none")}}):
        with pytest.raises((ConfigError, FileNotFoundError), match="mlruns|none"):
            run_job("finetune", config_of(folder, storage=storage, **refused), Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_invalid_settings_are_refused_before_training(folder: Path, tmp_path: Path) -> None:
    data = config_of(folder).data.model_dump()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check(config_of(folder, data=data | {"train": str(tmp_path / "none")}))
    with pytest.raises(ValueError, match="unknown corpus 'bioread'"):
        check(config_of(folder, data=data | {"corpus": "bioread"}))
    stage = {"zero_optimization": {"stage": 3}}
    with pytest.raises(ValueError, match="fine-tune with 1 or 2"):
        check(config_of(folder, engine="deepspeed", deepspeed=stage))


def one_rank(world: World, config: FinetuneConfig, folder: str) -> None:
    finetune.finetune(Job(config, Path(folder), None), world)


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["biored", ONE_TYPE], ids=["heads", "head_without_target"])
def test_zero_learns_what_the_plain_engine_learns(
    folder: Path, tmp_path: Path, corpus: str | dict[str, object]
) -> None:
    """Also where the relation head learns nothing: one type, and pairs found by novelty."""
    data = config_of(folder).data.model_dump() | {"corpus": corpus}
    zero = {"engine": "deepspeed", "deepspeed": {"zero_optimization": {"stage": 2}}}
    plain, sharded = (
        config_of(folder, name=name, storage=str(tmp_path), data=data, **engine)
        for name, engine in (("plain", {}), ("zero", zero))
    )
    run_job("finetune", plain, Console(quiet=True))
    if corpus == "biored":
        (tmp_path / "zero.yaml").write_text(dump_config(sharded))
        command = [sys.executable, "-m", "embre", "finetune", str(tmp_path / "zero.yaml")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    else:
        (tmp_path / "zero").mkdir()
        run_ranks(one_rank, 1, sharded, str(tmp_path / "zero"))
    runs = [list(read_events(tmp_path / name, "step")) for name in ("plain", "zero")]
    for mine, theirs in zip(*runs, strict=True):
        losses = [key for key in mine if key.startswith("loss/")]
        assert losses and ("loss/type" in losses) == (corpus == "biored")
        for key in losses:
            assert theirs[key] == pytest.approx(mine[key], rel=1e-4)


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_of_ray_train_learn_what_one_process_learns(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    sections = {
        "storage": str(tmp_path),
        "data": {**config_of(folder).data.model_dump(), "micro_batches": 3},
        "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"},
    }
    two_workers = {"launcher": "ray", "workers": 2}
    configs = [config_of(folder, name="one", **sections)]
    configs += [config_of(folder, name="two", launch=two_workers, **sections)]
    one, two = (run_job("finetune", config, Console(file=StringIO())) for config in configs)
    assert not ray.is_initialized(), "a run ends the cluster that it started"
    for mine, theirs in zip(read_events(one, "step"), read_events(two, "step"), strict=True):
        assert theirs["data"] == mine["data"]
        assert theirs["loss/type"] == pytest.approx(mine["loss/type"], rel=1e-4)
        assert theirs["loss/novelty"] == pytest.approx(mine["loss/novelty"], rel=1e-4)
    weights = [load_file(run / "relation_model" / "model.safetensors") for run in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-4, rtol=1e-3)
    scores = [json.loads((run / SCORES).read_text()) for run in (one, two)]
    told, same = (found.pop("discrimination") for found in scores)
    assert scores[0] == scores[1]
    assert told.keys() == same.keys()
    for name, numbers in told.items():
        assert same[name] == pytest.approx(numbers, abs=1e-3), name


@pytest.mark.parametrize(
    ("pairs", "learnt", "silent"),
    [
        ({"tasks": "relation"}, ["pair", "pair_type"], "novel"),
        ({"tasks": "novelty"}, ["pair", "pair_novelty"], "type"),
    ],
)
def test_untrained_tasks_have_no_results(
    folder: Path, tmp_path: Path, pairs: dict[str, str], learnt: list[str], silent: str
) -> None:
    place = {"name": "one-task", "storage": str(tmp_path)}
    run = run_job("finetune", config_of(folder, pairs=pairs, **place), Console(file=StringIO()))
    values = json.loads((run / SCORES).read_text())
    assert list(values["dev"]) == list(values["floor"]) == learnt
    (*_, validation) = read_events(run, "validation")
    assert [key for key in validation if "f1/" in key] == [f"validation/f1/{m}" for m in learnt]
    client, run_id = client_of(run)
    metrics = client.get_run(run_id).data.metrics
    assert {key for key in metrics if key.startswith("dev/f1/")} == {f"dev/f1/{m}" for m in learnt}
    scores = json.loads((run / "scores.json").read_text())
    told = {"related", "type"} if "pair_type" in learnt else {"related", "novelty"}
    assert set(scores["discrimination"]) == told
    assert metrics["dev/average_precision/related"] == pytest.approx(
        scores["discrimination"]["related"]["average_precision"]
    )
    shown = StringIO()
    Console(file=shown, width=120).print(scores_table(run))
    assert len(shown.getvalue().splitlines()) == 1 + len(learnt)
    front, text = (run / RELATION_MODEL / "README.md").read_text().split("# one-task")
    assert "pair + type + novelty" not in front + text and front.count("type: f1") == 2
    assert ("as new" in text) == ("novelty" in front) == (silent == "type")
    evaluation = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert list(evaluation["scores"]) == learnt and "all" not in evaluation["average_precision"]
    errors = (run / "evaluation" / "errors.tsv").read_text()
    assert "spurious" in errors and ("wrong novelty" in errors) == (silent == "type")
    assert "wrong type" not in errors or silent == "novel"
    with pytest.raises(ValueError, match=f"all_f1 was not trained .*one of {learnt[0]}_f1, "):
        register_run(run, "one-task", "champion", "all_f1")
    found = register_run(run, "one-task", "champion", "pair_f1")
    tags = client.get_model_version("one-task", found.version).tags
    assert {key for key in tags if key.endswith("_f1")} == {f"embre.{m}_f1" for m in learnt}


def test_a_run_that_stopped_before_its_scores_is_not_registered_until_it_is_finished(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    begun = tmp_path / run.name
    shutil.copytree(run, begun)
    (begun / SCORES).unlink()
    with pytest.raises(FileNotFoundError, match="not finished.*same `embre finetune` command"):
        register_run(begun, "embre-test", None)
    run_job("finetune", config_of(folder, storage=str(tmp_path)), Console(file=StringIO()))
    assert (begun / SCORES).read_text() == (run / SCORES).read_text()


def test_the_model_has_a_card_with_the_scores_of_the_run(run: Path) -> None:
    text = (run / "relation_model" / "README.md").read_text()
    values = json.loads((run / SCORES).read_text())
    assert f"| {values['dev']['all']['f1']:.4f} | {values['floor']['all']['f1']:.4f} |" in text
    assert "dev.PubTator (12 documents)" in text and str(run.parents[1]) not in text
    lineage = json.loads((run / "relation_model" / "embre.json").read_text())
    assert lineage["dev"] in text and lineage["scoring_protocol"].startswith("biored/")
