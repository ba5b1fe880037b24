"""A study: its cells, runs, resuming and table."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow.tracking import MlflowClient
from rich.console import Console

from embre import atomic_files
from embre.cli.studying import Done, _threads, carry_out_run, carry_out_study
from embre.config import (
    ConfigError,
    FinetuneConfig,
    PretrainConfig,
    StudyConfig,
    check_config,
    load_config,
)
from embre.corpora import write_pubtator
from embre.corpora.biored import SCHEMA
from embre.demo.corpus import make_corpus
from embre.document import Document
from embre.evaluation.bootstrap import document_counts
from embre.evaluation.scoring import METRICS, learnt_metrics
from embre.finetune import COUNTS, digests
from embre.launch.errors import RunFailed
from embre.launch.ray_workers import RayWorkers
from embre.launch.request_checks import CORRECTED
from embre.provenance import folder_digest
from embre.study.cells import (
    cells,
    finetuning,
    finetuning_runs,
    is_done,
    pairs_to_compare,
    pretraining_runs,
    run_folder,
    study_folder,
)
from embre.study.results import Result, comparisons, results
from embre.study.table import write_results
from embre.tracking import read_events
from embre.workers import OneProcess, Processes
from tests.shard_sets import write_shards
from tests.tiny import tiny_tokenizer

ROOT = Path(__file__).parents[2]
DOCS = make_corpus(36, seed=5)
AXES = {
    "tasks": {"both": [], "relation": ["pairs.tasks=relation"]},
    "encoding": {"document": [], "pairwise": ["pairs.encoding=pairwise"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("study")
    write_pubtator(found / "train.PubTator", DOCS[:24])
    write_pubtator(found / "dev.PubTator", DOCS[24:])
    tiny_tokenizer(found / "backbone", [doc.text for doc in DOCS], size=500)
    shape = {"layers": 1, "hidden": 32, "heads": 2, "feed_forward": 32}
    encoder = {"path": "-", "new": shape}
    data = {"train": str(found / "train.PubTator"), "dev": str(found / "dev.PubTator")}
    finetune = {"name": "-", "encoder": encoder, "data": data, "train": {"steps": 2}}
    (found / "finetune.yaml").write_text(yaml.safe_dump(finetune))
    pretrain = {
        "name": "-",
        "encoder": {"path": str(found / "backbone"), "new": shape},
        "data": {"shards": str(found / "shards")},
        "train": {"steps": 1},
    }
    (found / "pretrain.yaml").write_text(yaml.safe_dump(pretrain))
    return found


def study_of(folder: Path, storage: Path, **values: Any) -> StudyConfig:
    given = {
        "name": "small",
        "storage": str(storage),
        "backbones": {
            "as_is": {"path": str(folder / "backbone")},
            "trained": {"pretrain": str(folder / "pretrain.yaml"), "set": ["seed=3"]},
        },
        "corpora": {"made_up": str(folder / "finetune.yaml")},
        "axes": AXES,
        "set": ["optimizer.peak_lr=1e-2"],
        "seeds": [1, 2],
        **values,
    }
    return check_config(StudyConfig, given, "test")


def names(study: StudyConfig) -> list[str]:
    return [str(cell) for cell in cells(study)]


def test_cells_are_those_of_the_parts_without_duplicates(folder: Path, tmp_path: Path) -> None:
    parts = [{"backbone": ["as_is", "trained"]}, {"tasks": ["both", "relation"]}]
    study = study_of(folder, tmp_path, parts=parts)
    assert names(study) == [
        "made_up.as_is",
        "made_up.trained",
        "made_up.as_is.tasks-relation",
    ]
    assert [run.config.name for run in pretraining_runs(study)] == ["small.pretrain.trained"]
    assert pretraining_runs(study)[0].config.seed == 3
    runs = finetuning_runs(study)
    assert [run.config.name for run in runs[:2]] == [
        "small.made_up.as_is.s1",
        "small.made_up.as_is.s2",
    ]
    assert {run.config.seed for run in runs} == {1, 2}
    assert {run.config.optimizer.peak_lr for run in runs} == {1e-2}
    trained = finetuning(study, cells(study)[1], 1)
    assert trained.encoder.path == f"{tmp_path}/small/small.pretrain.trained/encoder"
    relation = finetuning(study, cells(study)[2], 1)
    assert relation.pairs.tasks == "relation" and relation.pairs.encoding == "document"
    assert pretraining_runs(study_of(folder, tmp_path, parts=[{}])) == []


def test_a_new_axis_keeps_names_and_configs_of_finished_runs(folder: Path, tmp_path: Path) -> None:
    parts = [{"backbone": ["as_is", "trained"]}, {"tasks": ["relation"]}]
    before = finetuning_runs(study_of(folder, tmp_path, parts=parts))
    axes = {**AXES, "attention": {"plain": [], "entity_aware": ["pairs.attention=entity_aware"]}}
    aware = [*parts, {"attention": ["entity_aware"]}]
    after = finetuning_runs(study_of(folder, tmp_path, axes=axes, parts=aware))
    assert after[: len(before)] == before
    added = [run.config.name for run in after[len(before) :]]
    assert added == [f"small.made_up.as_is.attention-entity_aware.s{seed}" for seed in (1, 2)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parts": [{"task": ["both"]}]}, "no axis task; known: corpus, backbone"),
        ({"parts": [{"tasks": ["all"]}]}, "no value all; known: both, relation"),
        ({"compare": [{"tasks": ["both", "all"]}]}, "compare.0.tasks: no value all; known: both"),
        ({"compare": [{"corpus": ["made_up", "made_up"]}]}, "not comparable"),
        ({"axes": {"backbone": {"a": []}}}, "built-in axes"),
        ({"axes": {"lr": {"1e-4": []}}}, "letters, digits"),
        ({"axes": {"lr": {}}}, "at least one value"),
        ({"backbones": {"a": {}}}, "exactly one of path and pretrain"),
        ({"backbones": {"a": {"path": "x", "set": ["seed=1"]}}}, "cannot be used with path"),
        ({"backbones": {"a": {"path": "models:/x@y"}}}, "a URL cannot be used here; download it"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [3, 1, 2, 1]}, "seeds: .*1 given twice; give each seed once"),
    ],
)
def test_an_invalid_study_is_refused(
    folder: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        study_of(folder, tmp_path, **values)


def test_comparisons_of_the_shipped_study() -> None:
    study = load_config(StudyConfig, ROOT / "configs/study/embre.yaml")
    compared = {(str(cell), str(against)) for cell, against in pairs_to_compare(study)}
    base = "biored.{}"
    for this, that in (("entity", "token"), ("both", "token"), ("token", "as_is")):
        assert (base.format(this), base.format(that)) in compared
    three_epochs = "biored.as_is.encoding-document_3_epochs"
    assert ("biored.as_is.encoding-pairwise", three_epochs) in compared
    by_relations = "biored.as_is{}.found_by-relation"
    assert (by_relations.format(".tasks-relation"), by_relations.format("")) in compared
    papers = "biored.{}.encoding-pairwise.found_by-relation_as_in_the_paper"
    assert (papers.format("as_is"), three_epochs) in compared
    assert (papers.format("entity"), papers.format("as_is")) in compared
    silver = "biored.as_is.beside-silver"
    assert (silver, base.format("as_is")) in compared
    for differ in study.compare:
        assert pairs_to_compare(study.model_copy(update={"compare": [differ]})), differ


class Pretended:
    """Workers that leave what a run leaves: predictions of some quality, by the run's name."""

    number = 1

    def __init__(self, quality: Callable[[str], float], fails: str = "nothing"):
        self.quality, self.fails = quality, fails
        self.ran: list[str] = []

    def run(self, function: Any, calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        assert function is carry_out_run
        for kind, place, threads in calls:
            assert threads == {}, "one by one, a run has all cores"
            name = Path(place).name
            self.ran.append(name)
            if self.fails in name:
                yield Done(name, 1, "error: out of luck")
                continue
            if kind == "pretrain":
                backbone = load_config(PretrainConfig, Path(place) / "config.yaml").encoder.path
                shutil.copytree(backbone, Path(place) / "encoder")
                leave_events(Path(place), minutes=5)
            else:
                leave(Path(place), self.quality(name))
            yield Done(name, 0, "")


def leave(place: Path, quality: float) -> None:
    config = load_config(FinetuneConfig, place / "config.yaml")
    rng = np.random.default_rng(config.seed)

    def degraded(doc: Document) -> Document:
        kept = [r for r in doc.relations if rng.random() < quality]
        return doc.__class__(doc.doc_id, doc.text, doc.passages, doc.mentions, tuple(kept))

    gold = DOCS[24:]
    counts = document_counts(gold, [degraded(doc) for doc in gold])
    learnt = learnt_metrics(SCHEMA, config.pairs.tasks)
    (place / COUNTS).write_text(json.dumps({metric: counts[metric].tolist() for metric in learnt}))
    (place / "relation_model").mkdir()
    made_of = {**digests(config), "encoder": {"digest": folder_digest(config.encoder.path)}}
    (place / "relation_model" / "embre.json").write_text(json.dumps(made_of))
    told = {"related": {"average_precision": quality}, "type": {"accuracy": 0.6, "log_loss": 1.0}}
    if config.pairs.tasks != "relation":
        told["novelty"] = {"auc": 0.8 + config.seed / 100}
    (place / "scores.json").write_text(json.dumps({"discrimination": told}))
    leave_events(place, minutes=3)


def first_runs(result: Result, number: int) -> Result:
    """What came out of the first runs alone."""
    counts = {metric: runs[:number] for metric, runs in result.counts.items()}
    return Result(counts, result.discrimination[:number], result.minutes[:number])


def leave_events(place: Path, minutes: int) -> None:
    events = [
        {"event": "started", "step": 0, "time": 60.0},
        {"event": "x", "step": 2, "time": 60.0 * (minutes + 1)},
        # An hour later it is started again, and says something before that is an event.
        {"event": "checkpoint_skipped", "step": 2, "time": 60.0 * (minutes + 61)},
        {"event": "vocabulary", "step": 1, "time": 60.0 * (minutes + 61)},
        {"event": "started", "step": 1, "time": 60.0 * (minutes + 62)},
    ]
    (place / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))


def quiet() -> Console:
    return Console(file=StringIO())


def test_the_table_has_the_results(folder: Path, tmp_path: Path) -> None:
    parts = [{"backbone": ["as_is", "trained"]}, {"tasks": ["relation"]}]
    compare = [{"backbone": ["trained", "as_is"]}, {"tasks": ["relation", "both"]}]
    study = study_of(folder, tmp_path, parts=parts, compare=compare)
    workers = Pretended(lambda name: 0.9 if "trained" in name else 0.5)
    table = carry_out_study(study, workers, quiet())
    assert workers.ran[0] == "small.pretrain.trained", "encoders first"
    assert len(workers.ran) == 1 + 3 * 2
    found = results(study)
    as_is, trained, relation = (found[cell] for cell in cells(study))
    for metric in METRICS:
        assert trained.f1[metric].shape == (2,) and trained.counts[metric].shape == (2, 12, 3)
    assert as_is.minutes.tolist() == [3.0, 3.0]
    better, other = comparisons(study, found)
    assert better[:2] == tuple(cells(study)[1::-1]) and other[:2] == tuple(cells(study)[2::-2])
    assert better.metric == "all" and better.p is not None and better.p < 0.05
    alone = {cell: first_runs(result, 1) for cell, result in found.items()}
    assert [one.p for one in comparisons(study, alone)] == [None, None]
    assert better.points == pytest.approx(100 * (trained.f1["all"].mean() - as_is.f1["all"].mean()))
    # What one task alone has not learnt is neither shown nor compared.
    assert other.metric == "pair_type"
    assert tuple(relation.f1) == ("pair", "pair_type") and tuple(as_is.f1) == METRICS
    text = table.read_text()
    mean, sd = 100 * trained.f1["all"].mean(), 100 * trained.f1["all"].std(ddof=1)
    assert (
        "| made_up | trained | both | document | 2 |" in text and f"{mean:.1f} ± {sd:.1f}" in text
    )
    assert "| made_up | as_is | relation | document | 2 |" in text and "| – | – | 3.0 |" in text
    assert "| trained | as_is | made_up.trained | all |" in text
    told = "| 0.900 ± 0.000 | 0.600 ± 0.000 | 1.000 ± 0.000 | 0.815 ± 0.007 |"
    assert f"| made_up | trained | both | document {told}" in text
    told = "| 0.500 ± 0.000 | 0.600 ± 0.000 | 1.000 ± 0.000 | – |"
    assert f"| made_up | as_is | relation | document {told}" in text
    assert "| trained | 5.0 | 0.3 |" in text, "a step of 16 strips of 16,384 tokens"
    assert "Not run: none." in text and "pretrained once" in text
    assert (study_folder(study) / "study.png").stat().st_size > 1000


def test_finished_runs_are_not_repeated_and_failed_ones_are_named(
    folder: Path, tmp_path: Path
) -> None:
    study = study_of(folder, tmp_path, parts=[{"encoding": ["document", "pairwise"]}])
    first = Pretended(lambda name: 0.7, fails="pairwise.s2")
    with pytest.raises(RunFailed, match="1 runs failed, as small.*pairwise.s2: error: out of luck"):
        carry_out_study(study, first, quiet())
    assert len(first.ran) == 4
    text = write_results(study).read_text()
    assert "Not with all 2 seeds: made_up.as_is.encoding-pairwise." in text
    second = Pretended(lambda name: 0.7)
    carry_out_study(study, second, quiet())
    assert second.ran == ["small.made_up.as_is.encoding-pairwise.s2"]
    changed = study_of(folder, tmp_path, set=["optimizer.peak_lr=1e-3"])
    with pytest.raises(ConfigError, match="another config than the study now gives it"):
        carry_out_study(changed, Pretended(lambda name: 0.7), quiet())
    other = tmp_path / "other"
    shutil.copytree(folder / "backbone", other)
    (other / "config.json").write_text("{}")
    moved = study_of(
        folder,
        tmp_path,
        backbones={"as_is": {"path": str(other)}},
        parts=[{"encoding": ["document", "pairwise"]}],
    )
    with pytest.raises(ConfigError, match="encoder changed since it was run"):
        carry_out_study(moved, Pretended(lambda name: 0.7), quiet())
    shutil.rmtree(other)
    with pytest.raises(ConfigError, match="its backbone .*other does not exist any more.*restore"):
        write_results(moved)
    for lineage in study_folder(study).glob("*/relation_model/embre.json"):
        lineage.unlink()
    with pytest.raises(ConfigError, match="train and dev and encoder changed since it was run"):
        carry_out_study(study, Pretended(lambda name: 0.7), quiet())


def test_a_run_that_has_not_begun_may_be_corrected(folder: Path, tmp_path: Path) -> None:
    """What waits for its turn is a folder with a config, which a kill may have emptied."""
    study = study_of(folder, tmp_path, seeds=[1, 2])
    with pytest.raises(RunFailed):
        carry_out_study(study, Pretended(lambda name: 0.7, fails="small"), quiet())
    begun, emptied = (study_folder(study) / run.config.name for run in finetuning_runs(study))
    (emptied / "config.yaml").write_text("")
    changed = study_of(folder, tmp_path, seeds=[1, 2], set=["optimizer.peak_lr=1e-3"])
    assert not any(map(is_done, finetuning_runs(changed)))
    (begun / "events.jsonl").touch()
    with pytest.raises(RunFailed):
        carry_out_study(changed, Pretended(lambda name: 0.7, fails="small"), quiet())
    assert (begun / CORRECTED).exists() and not (begun / "events.jsonl").exists()
    carry_out_study(study, Pretended(lambda name: 0.7), quiet())
    (emptied / "config.yaml").write_text("")
    assert all(map(is_done, finetuning_runs(study)))
    (begun / COUNTS).unlink()
    assert not is_done(finetuning_runs(study)[0])
    (begun / "checkpoints" / "step-000000001").mkdir(parents=True)
    with pytest.raises(ConfigError, match="another config than the study now gives it"):
        is_done(finetuning_runs(changed)[0])


def test_the_config_of_a_run_is_written_atomically(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(folder, tmp_path, seeds=[1])

    def killed(name: str) -> None:
        if name == "half_written":
            raise KeyboardInterrupt

    monkeypatch.setattr(atomic_files, "fault_point", killed)
    with pytest.raises(KeyboardInterrupt):
        carry_out_study(study, Pretended(lambda name: 0.7), quiet())
    (run,) = finetuning_runs(study)
    assert not (run_folder(run.config) / "config.yaml").exists()


@pytest.mark.parametrize("where", ["axes", "set_pretraining"])
def test_a_study_with_a_secret_in_its_last_run_writes_nothing(
    folder: Path, tmp_path: Path, where: str
) -> None:
    secret = ["tracking.uri=https://me:hunter22@host/mlflow"]
    parts = [{}, {"backbone": ["trained"], "tasks": ["relation"]}]
    given = {"axes": AXES | {"tasks": {"both": [], "relation": secret}}, "set_pretraining": secret}
    study = study_of(folder, tmp_path, parts=parts, **{where: given[where]})
    workers = Pretended(lambda name: 0.7)
    with pytest.raises(
        ConfigError, match=r"^tracking\.uri: contains a URL with a password"
    ) as refused:
        carry_out_study(study, workers, quiet())
    assert "hunter22" not in str(refused.value)
    assert not workers.ran and not list(tmp_path.iterdir())


def test_a_cell_without_its_encoder_does_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    study = study_of(folder, tmp_path, parts=[{"backbone": ["as_is", "trained"]}])
    workers = Pretended(lambda name: 0.7, fails="pretrain")
    with pytest.raises(RunFailed, match="pretrain.trained: error: out of luck"):
        carry_out_study(study, workers, quiet())
    assert workers.ran == [
        "small.pretrain.trained",
        "small.made_up.as_is.s1",
        "small.made_up.as_is.s2",
    ]


def test_runs_that_share_a_machine_share_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embre.cli.studying.num_cores", lambda: 7)
    for number, threads in ((2, "3"), (9, "1")):
        with Processes(number, "embre.cli.studying") as workers:
            assert _threads(workers) == {"OMP_NUM_THREADS": threads}
    assert _threads(OneProcess()) == {}
    command = tmp_path / "python"
    command.write_text("#!/bin/sh\necho $OMP_NUM_THREADS threads\n")
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command))
    for given, threads in ((None, "3 threads"), ("5", "5 threads")):
        monkeypatch.setenv("OMP_NUM_THREADS", given or "")
        if given is None:
            monkeypatch.delenv("OMP_NUM_THREADS")
        done = carry_out_run("finetune", str(tmp_path), {"OMP_NUM_THREADS": "3"})
        assert done.last_words == threads


@pytest.mark.slow
def test_a_real_run_of_a_cell(folder: Path, tmp_path: Path) -> None:
    study = study_of(folder, tmp_path, seeds=[1], set=[])
    table = carry_out_study(study, OneProcess(), quiet())
    (result,) = results(study).values()
    assert result.counts["pair"].shape == (1, 12, 3) and result.minutes[0] > 0
    assert "| made_up | as_is | both | document | 1 |" in table.read_text()
    with pytest.raises(RunFailed, match="no config.json|No such|not"):
        broken = study_of(
            folder, tmp_path, name="broken", backbones={"gone": {"path": str(tmp_path / "gone")}}
        )
        carry_out_study(broken, OneProcess(), quiet())


@pytest.mark.slow
@pytest.mark.parametrize(("ended_by", "processes"), [(signal.SIGTERM, 1), (signal.SIGKILL, 2)])
def test_a_run_saves_and_stops_when_its_study_is_killed(
    folder: Path, tmp_path: Path, ended_by: signal.Signals, processes: int
) -> None:
    never = ["train.steps=1000000", "train.save_every_steps=1000000", "train.log_every_steps=1"]
    study = study_of(folder, tmp_path, seeds=[1], set=never)
    given = tmp_path / "study.yaml"
    given.write_text(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    run = tmp_path / "small" / "small.made_up.as_is.s1"
    command = [sys.executable, "-m", "embre", "study", str(given)]
    with subprocess.Popen([*command, f"--processes={processes}"], cwd=ROOT) as started:
        try:
            until(lambda: any(read_events(run, "step")))
        finally:
            started.send_signal(ended_by)
    until(lambda: "run the same command again to resume" in (run / "study.log").read_text())
    (saved,) = (run / "checkpoints").glob("step-*")
    assert (saved / "manifest.json").exists()


@pytest.mark.slow
def test_a_run_of_a_study_may_have_loader_processes(tmp_path: Path) -> None:
    """They are spawned, and import the file that was run anew: it must not run in them."""
    shards = write_shards(tmp_path, 12)
    shape = {"layers": 1, "hidden": 32, "heads": 2, "feed_forward": 32}
    given = {
        "name": "loaded",
        "storage": str(tmp_path),
        "encoder": {"path": f"{shards.url}/tokenizer", "new": shape},
        "data": {"shards": shards.url, "streams": 2, "strip_tokens": 512, "loader_workers": 1},
        "train": {"steps": 2},
    }
    place = tmp_path / "loaded"
    place.mkdir()
    (place / "config.yaml").write_text(yaml.safe_dump(given))
    done = carry_out_run("pretrain", str(place), {})
    assert done.code == 0, (place / "study.log").read_text()
    started = [event for event in read_events(place) if event["event"] == "started"]
    assert len(started) == 1 and (place / "encoder" / "config.json").exists()


def until(holds: Callable[[], bool], seconds: float = 90.0) -> None:
    """Wait until something holds."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.2)


@pytest.mark.ray
@pytest.mark.slow
def test_tasks_of_ray_carry_out_a_study_given_by_relative_paths(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    study = study_of(
        folder, Path("here"), parts=[{"encoding": ["document", "pairwise"]}], seeds=[1]
    )
    with RayWorkers("local") as workers:
        table = carry_out_study(study, workers, quiet())
    assert table == Path("here/small/study.md") and "Not run: none." in table.read_text()
    client = MlflowClient(f"sqlite:///{tmp_path}/here/small/mlflow.db")
    experiment = client.get_experiment_by_name("embre")
    assert experiment is not None
    assert {run.info.run_name for run in client.search_runs([experiment.experiment_id])} == {
        "small.made_up.as_is.s1",
        "small.made_up.as_is.encoding-pairwise.s1",
    }, "no run lost its tracking to another that made the store"
