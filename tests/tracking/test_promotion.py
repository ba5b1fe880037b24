"""An alias moves to a better model only, and only where the two can be compared."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from embre.cli import app as cli
from embre.corpora import CORPORA
from embre.evaluation.scoring import scoring_protocol
from embre.provenance import LINEAGE
from embre.register import NotBetter, check_better, register_run
from embre.tracking.registry import DIGEST
from embre.tracking.runs import RUN_FILE
from embre.tracking.versions import Version, aliased
from tests.tracking.finished_runs import PROTOCOL, finished_run

TAGS = {
    "embre.dev": "b" * 64,
    "embre.scoring_protocol": PROTOCOL,
    "embre.all_f1": "0.5",
    DIGEST: "c",
}
ALL = {"all_f1": 0.6}


def told(folder: Path) -> Path:
    """A model's folder with nothing but what it says of its scores."""
    (folder / LINEAGE).write_text(json.dumps({"dev": "b" * 64, "scoring_protocol": PROTOCOL}))
    return folder


@pytest.mark.slow
def test_only_a_better_model_gets_the_alias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first, same, better, other = (
        finished_run(tmp_path, name, f1, **lineage)
        for name, f1, lineage in (
            ("first", 0.5, {}),
            ("same", 0.5, {}),
            ("better", 0.51, {}),
            ("other", 0.9, {"dev": "f" * 64}),
        )
    )

    def call(run: Path) -> tuple[int, str]:
        options = "--name m --alias champion --if-better all_f1"
        monkeypatch.setattr("sys.argv", ["embre", "register", str(run), *options.split()])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), capsys.readouterr().err

    assert call(first) == (0, ""), "the first of a name has nobody to beat"
    assert call(first) == (0, ""), "the same command again"
    code, error = call(same)
    assert code == 1 and "all_f1 0.5000 does not beat m@champion (version 1, 0.5000)" in error
    code, error = call(other)
    assert code == 2 and "scored on other documents" in error
    client = MlflowClient(uri)
    assert len(client.search_model_versions("name='m'")) == 1, "what is refused is not registered"
    assert call(better) == (0, "")
    now = aliased("m", "champion", uri)
    assert now is not None and now.number == "2"
    kept = {
        key: now.tags[f"embre.{key}"] for key in ("all_f1", "pair_f1", "scoring_protocol", "run")
    }
    assert kept == {
        "all_f1": "0.51",
        "pair_f1": "0.81",
        "scoring_protocol": PROTOCOL,
        "run": "better",
    }


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"embre.dev": "e" * 64}, "on other documents .*eeeeeeeeeeee there, bbbbbbbbbbbb here"),
        ({"embre.scoring_protocol": "bc5cdr/1"}, "under another scoring protocol"),
        ({"embre.scoring_protocol": None}, "not known there"),
    ],
)
def test_what_was_scored_otherwise_is_not_compared(
    tmp_path: Path, tags: dict[str, str | None], message: str
) -> None:
    model = told(tmp_path)
    known = {key: value for key, value in {**TAGS, **tags}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        check_better(model, ALL, "all_f1", "m@champion", Version("m", "1", known))


def test_better_means_more(tmp_path: Path) -> None:
    model = told(tmp_path)
    check_better(model, ALL, "all_f1", "m@champion", Version("m", "1", TAGS))
    check_better(model, ALL, "all_f1", "m@champion", None)
    for theirs in ("0.6", "0.7"):
        with pytest.raises(NotBetter, match="the alias was not moved"):
            known = Version("m", "1", TAGS | {"embre.all_f1": theirs})
            check_better(model, ALL, "all_f1", "m@champion", known)
    with pytest.raises(ValueError, match="known: pair_f1, pair_type_f1, pair_novelty_f1, all_f1"):
        check_better(model, ALL, "f1", "m@champion", None)
    with pytest.raises(ValueError, match="an encoder has no all_f1"):
        check_better(model, {}, "all_f1", "m@champion", None)


def test_what_was_not_learnt_is_not_compared(tmp_path: Path) -> None:
    model, learnt = told(tmp_path), {"pair_f1": 0.7, "pair_type_f1": 0.6}
    with pytest.raises(ValueError, match="all_f1 was not trained .*one of pair_f1, pair_type_f1$"):
        check_better(model, learnt, "all_f1", "m@champion", None)
    known = {key: value for key, value in TAGS.items() if key != "embre.all_f1"}
    with pytest.raises(ValueError, match="version 1. has no all_f1, so the two cannot be compared"):
        check_better(model, ALL, "all_f1", "m@champion", Version("m", "1", known))


def test_names_that_mlflow_would_refuse_are_refused_before_it_copies(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "encoder").mkdir(parents=True)
    (run / RUN_FILE).write_text('{"uri": "", "run_id": ""}')
    with pytest.raises(ValueError, match="give --alias too"):
        register_run(run, "m", None, "all_f1")
    for name, alias in (("a/b", None), ("it's", None), ("m", "latest"), ("m", "V1"), ("m", "a b")):
        with pytest.raises(ValueError, match="--name|--alias"):
            register_run(run, name, alias)


def test_a_counting_has_its_rules_in_its_name() -> None:
    schema = CORPORA["biored"]
    assert scoring_protocol(schema).startswith("biored/")
    joint = replace(schema, relation_types=(*schema.relation_types, "CID"))
    assert scoring_protocol(joint) == scoring_protocol(schema), "what else is learnt does not count"
    others = (
        replace(schema, novelty=False),
        replace(schema, label_map={"Bind": None}),
        replace(schema, not_scored=frozenset()),
        CORPORA["bc5cdr"],
    )
    assert len({scoring_protocol(schema), *map(scoring_protocol, others)}) == 5
