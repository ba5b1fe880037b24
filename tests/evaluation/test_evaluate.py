"""The complete evaluation and its files."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from embre.corpora.biored import SCHEMA
from embre.demo.corpus import make_corpus
from embre.document import Document
from embre.evaluation.bootstrap import document_counts, interval
from embre.evaluation.discrimination import discrimination
from embre.evaluation.evaluate import ERRORS, EVALUATION, evaluate_documents, write_evaluation
from embre.evaluation.scoring import METRICS, score
from embre.relations.pair_labels import NOVEL, label_pairs
from embre.relations.scored_pairs import Decision, ScoredPairs, decide
from embre.tally import Tally


@pytest.fixture(scope="module")
def gold() -> list[Document]:
    return make_corpus(24, seed=3)


@pytest.fixture(scope="module")
def scored(gold: list[Document]) -> ScoredPairs:
    """A model that knows something."""
    rng = np.random.default_rng(1)
    candidates = [list(SCHEMA.candidates(doc)) for doc in gold]
    labels = [
        label_pairs(doc, SCHEMA, some, Tally()) for doc, some in zip(gold, candidates, strict=True)
    ]
    relations, novelties = (np.concatenate(side) for side in zip(*labels, strict=True))
    size = len(relations)
    types = rng.random((size, len(SCHEMA.relation_types)))
    types[np.arange(size), np.maximum(relations - 1, 0)] += 1.0
    return ScoredPairs(
        len(gold),
        np.repeat(np.arange(len(gold)), [len(some) for some in candidates]),
        [pair for some in candidates for pair in some],
        np.where(relations != 0, 0.35, 0.05) + 0.6 * rng.random(size),
        types / types.sum(1, keepdims=True),
        rng.random(size),
        relations,
        np.where(novelties > 0, novelties == NOVEL, np.nan),
    )


@pytest.fixture(scope="module")
def predicted(gold: list[Document], scored: ScoredPairs) -> list[Document]:
    found = decide(scored, Decision(), SCHEMA)
    return [replace(doc, relations=some) for doc, some in zip(gold, found, strict=True)]


def test_everything_is_measured_and_written(gold, predicted, scored, tmp_path):
    found = evaluate_documents(gold, predicted, SCHEMA, gold, scored, discrimination(scored))
    assert found.scores == score(gold, predicted)
    assert found.intervals["all"] == interval(document_counts(gold, predicted)["all"])
    assert found.confusion.counts.sum() >= len(scored) and set(found.curves) == set(METRICS)
    assert found.curves["pair"].recall[-1] == 1.0
    for metric, right in scored.right.items():
        assert right[scored.related >= 0.5].sum() == found.scores[metric].tp
    assert found.reliability["related"].counts.sum() == len(scored)
    assert found.reliability["type"].counts.sum() == (scored.relation_labels > 0).sum()
    assert found.reliability["novelty"].counts.sum() == (~np.isnan(scored.gold_novel)).sum()
    assert set(found.of_metrics(["pair", "pair_type"]).reliability) == {"related", "type"}
    assert set(found.discrimination) == {"related", "type", "novelty"}
    assert set(found.of_metrics(["pair", "pair_type"]).discrimination) == {"related", "type"}
    missed = [error for error in found.errors if error.outcome == "missed"]
    assert missed and all(error.probability is not None for error in missed)
    paths = write_evaluation(tmp_path / "out", found)
    assert sorted(path.name for path in paths) == sorted(
        path.name for path in (tmp_path / "out").iterdir()
    )
    values = json.loads((tmp_path / "out" / EVALUATION).read_text())
    assert values["scores"]["all"]["tp"] == found.scores["all"].tp
    assert set(values["groups"]) == set(found.groups) and len(values["groups"]) == 5
    assert values["discrimination"] == found.discrimination
    with (tmp_path / "out" / ERRORS).open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == len(found.errors) and all(row["text"] for row in rows)
    for path in paths:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")


def test_without_pairs_and_probabilities_there_are_no_curves(gold, tmp_path):
    found = evaluate_documents(gold, gold)
    assert found.curves == found.reliability == found.discrimination == {} and found.errors == []
    assert found.scores["all"].f1 == 1.0
    names = {path.name for path in write_evaluation(tmp_path, found)}
    assert names == {EVALUATION, ERRORS, "confusion.png"}


def test_plots_of_an_earlier_evaluation_are_removed(gold, predicted, tmp_path):
    (tmp_path / "report.html").touch()
    write_evaluation(tmp_path, evaluate_documents(gold, predicted))
    assert len(list(tmp_path.glob("*.png"))) == 3
    written = write_evaluation(tmp_path, evaluate_documents(gold, gold))
    assert {*written, tmp_path / "report.html"} == set(tmp_path.iterdir())


def test_curves_of_predicted_relations_end_at_the_last_prediction(gold, predicted):
    found = evaluate_documents(gold, predicted)
    assert not found.of_candidates
    for metric in METRICS:
        assert found.curves[metric].recall[-1] == pytest.approx(found.scores[metric].recall)
        assert found.curves[metric].precision[-1] == pytest.approx(found.scores[metric].precision)


def test_pairs_of_other_documents_are_refused(gold, predicted, scored):
    with pytest.raises(ValueError, match="scored pairs of"):
        evaluate_documents(gold[1:], predicted, scored=scored)
