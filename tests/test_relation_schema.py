"""A schema reads a corpus in its own words, and is known again from a saved model's folder."""

from dataclasses import replace

import pytest

from embre.corpora import CORPORA
from embre.relation_schema import RelationSchema, schema_as_json, schema_of_json
from embre.tally import Tally
from tests.tiny import document

DRUG, ILLNESS = "Chemical:D001241", "Disease:D008545"
TEXT = "<aspirin|Chemical|D001241> treats <melanoma|Disease|D008545>"
MINE = RelationSchema(
    name="mine",
    relation_types=("CID", "treats"),
    legal={("Chemical", "Disease"): frozenset({"CID", "treats"})},
    label_map={"induces": "CID", "mentions": None},
    novelty=False,
)


def test_labels_are_renamed_left_out_or_counted() -> None:
    labels = ("induces", "treats", "mentions", "likes")
    doc = document(TEXT, [(DRUG, ILLNESS, label, True) for label in labels], doc_id="7")
    tally = Tally()
    found = MINE.normalise(doc, tally)
    assert [(r.type, r.novel) for r in found.relations] == [("CID", None), ("treats", None)]
    assert replace(found, relations=()) == replace(doc, relations=())
    assert tally.counts == {"relation/label_left_out": 1, "relation/label_not_known": 1}
    assert tally.examples["relation/label_not_known"] == ["7: likes"]


def test_a_label_of_another_corpus_is_not_known() -> None:
    joint = replace(MINE, relation_types=("Association", *MINE.relation_types))
    assert joint.corpus_types == ("CID", "treats") and joint.labels[:2] == ("None", "Association")
    assert joint.knows("treats") and joint.knows("mentions") and not joint.knows("Association")


def test_a_saved_schema_is_the_same_for_prediction() -> None:
    for schema in (MINE, *CORPORA.values()):
        found = schema_of_json(schema_as_json(schema))
        assert found == replace(schema, label_map={}, not_scored=frozenset())


def test_what_is_not_scored_is_no_candidate() -> None:
    with pytest.raises(AssertionError, match="not annotated"):
        replace(MINE, not_scored=frozenset(MINE.legal))
