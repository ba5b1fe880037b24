"""Our scorer against a second one, written from the description of the official counting."""

import io
import random
from dataclasses import replace
from itertools import product

import pytest

from embre.corpora import pubtator, read_documents
from embre.corpora.biored import NOT_SCORED, SCHEMA
from embre.document import Concept, Document, Relation
from embre.evaluation.scoring import (
    METRICS,
    Score,
    floor,
    learnt_metrics,
    only_predicted,
    only_scored,
    score,
)
from embre.relation_schema import RelationSchema
from embre.tally import Tally
from tests.tiny import document

BRAF, MAPK1 = Concept("Gene", "673"), Concept("Gene", "5594")
MELANOMA, FEVER = Concept("Disease", "D008545"), Concept("Disease", "D005334")
HUMAN, V600E = Concept("Species", "9606"), Concept("Variant", "rs113488022")

NOT_ANNOTATED = [
    {"DiseaseOrPhenotypicFeature"},
    {"GeneOrGeneProduct", "SequenceVariant"},
    {"GeneOrGeneProduct", "OrganismTaxon"},
]


def doc(doc_id: str, *relations: Relation) -> Document:
    return Document(doc_id, "", (), (), relations)


def counts(scores: dict[str, Score]) -> dict[str, tuple[int, int, int]]:
    return {metric: (s.tp, s.fp, s.fn) for metric, s in scores.items()}


def official_counts(gold: list[str], predicted: list[str]) -> dict[str, tuple[int, int, int]]:
    """The official counting over PubTator blocks: sets of tuples of strings, for four files."""
    result = {}
    for metric in METRICS:
        binary = metric in ("pair", "pair_novelty")
        with_novelty = metric in ("pair_novelty", "all")
        tp = fp = fn = 0
        said_of = {pmid_of(block): block for block in predicted}
        for block in gold:
            if pmid_of(block) in said_of:
                true = official_tuples(block, binary, with_novelty)
                said = official_tuples(said_of[pmid_of(block)], binary, with_novelty)
                tp += len(true & said)
                fp += len(said - true)
                fn += len(true - said)
        result[metric] = (tp, fp, fn)
    return result


def official_tuples(block: str, binary: bool, with_novelty: bool) -> set[tuple]:
    types = {}
    for columns in rows(block, 6):
        for identifier in columns[5].split(","):
            types[identifier] = columns[4]  # the last mention wins

    tuples = set()
    for _, label, first_ids, second_ids, *novelty in rows(block, 4, 5):
        if binary:
            label = "Association"
        if with_novelty:
            label += f"|{novelty[0] if novelty else 'None'}"
        for ids in product(first_ids.split(","), second_ids.split(",")):
            first, second = sorted(identifier.split("@")[-1] for identifier in ids)
            if {types[first], types[second]} not in NOT_ANNOTATED:
                tuples.add((first, second, label, types[first], types[second]))
    return tuples


def rows(block: str, *widths: int) -> list[list[str]]:
    columns = [line.split("\t") for line in block.splitlines()]
    return [row for row in columns if len(row) in widths]


def pmid_of(block: str) -> str:
    return block.split("|", 1)[0]


def perturbed(block: str, rng: random.Random) -> str:
    """Relations dropped, relabelled, turned round and made up, between any two identifiers."""
    lines = [line for line in block.splitlines() if len(line.split("\t")) != 5]
    for pmid, label, first, second, novelty in rows(block, 5):
        chance = rng.random()
        if chance < 0.2:
            continue
        if chance < 0.4:
            label = rng.choice(SCHEMA.relation_types)
        elif chance < 0.6:
            novelty = "No" if novelty == "Novel" else "Novel"
        elif chance < 0.7:
            first, second = second, first
        novelties = [] if chance > 0.9 else [novelty]
        lines.append("\t".join([pmid, label, first, second, *novelties]))

    identifiers = [part for row in rows(block, 6) for part in row[5].split(",") if part != "-"]
    for _ in range(rng.randrange(6)):
        label, novelty = rng.choice(SCHEMA.relation_types), rng.choice(("Novel", "No"))
        ends = rng.choice(identifiers), rng.choice(identifiers)
        lines.append("\t".join([pmid_of(block), label, *ends, novelty]))
    return "\n".join(lines)


def parse(blocks: list[str]) -> list[Document]:
    text = "\n\n".join(blocks) + "\n"
    return list(pubtator.read(io.BytesIO(text.encode()), "memory", Tally()))


@pytest.fixture(scope="module")
def dev(corpora) -> list[Document]:
    return list(read_documents(corpora / "biored" / "Dev.PubTator", Tally()))


@pytest.fixture(scope="module")
def dev_blocks(corpora) -> list[str]:
    return (corpora / "biored" / "Dev.PubTator").read_text("utf-8").strip("\n").split("\n\n")


def test_gold_against_itself_is_perfect(dev):
    tally = Tally()
    scores = score(dev, dev, tally=tally)
    assert counts(scores) == dict.fromkeys(METRICS, (1162, 0, 0))
    assert scores["all"].f1 == 1.0
    assert not tally.counts


def test_floor_of_dev(dev):
    scores = score(dev, floor(dev, SCHEMA))
    assert counts(scores)["pair"] == (1161, 6334 - 1161, 1)
    assert {metric: round(s.f1, 4) for metric, s in scores.items()} == {
        "pair": 0.3098,
        "pair_type": 0.1494,
        "pair_novelty": 0.2228,
        "all": 0.1102,
    }


@pytest.mark.parametrize("seed", range(30))
def test_counts_as_the_official_scorer(dev, dev_blocks, seed):
    rng = random.Random(seed)
    blocks = [perturbed(block, rng) for block in dev_blocks if rng.random() < 0.95]
    sides = (only_scored(docs, NOT_SCORED, Tally(), "") for docs in (dev, parse(blocks)))
    gold, predicted = sides
    ours = counts(score(only_predicted(gold, predicted, Tally()), predicted))
    assert ours == official_counts(dev_blocks, blocks)


def test_the_order_of_the_two_concepts_does_not_matter():
    gold = doc("1", Relation(BRAF, MELANOMA, "Association", novel=True))
    said = doc("1", Relation(MELANOMA, BRAF, "Association", novel=True))
    assert counts(score([gold], [said]))["all"] == (1, 0, 0)


def test_two_labels_for_one_pair_are_one_pair():
    gold = doc("1", Relation(BRAF, MELANOMA, "Association", novel=True))
    more = (
        Relation(BRAF, MELANOMA, "Bind", novel=True),
        Relation(BRAF, MELANOMA, "Bind", novel=None),
    )
    assert counts(score([gold], [replace(gold, relations=gold.relations + more)])) == {
        "pair": (1, 0, 0),
        "pair_type": (1, 1, 0),
        "pair_novelty": (1, 1, 0),
        "all": (1, 2, 0),
    }


def test_a_document_without_prediction_is_missed_but_not_for_the_official_scorer():
    gold = [doc(i, Relation(BRAF, MELANOMA, "Association", novel=True)) for i in ("1", "2")]
    tally = Tally()
    assert counts(score(gold, gold[:1], tally=tally))["pair"] == (1, 0, 1)
    assert tally.counts == {"gold_document/not_predicted": 1}
    tally = Tally()
    assert only_predicted(gold, gold[:1], tally) == gold[:1]
    assert tally.counts == {"gold_document/not_predicted": 1}


def test_a_document_that_gold_lacks_is_left_out_and_counted():
    gold = doc("1", Relation(BRAF, MELANOMA, "Association", novel=True))
    tally = Tally()
    assert counts(score([gold], [gold, replace(gold, doc_id="2")], tally=tally))["all"] == (1, 0, 0)
    assert tally.counts == {"predicted_document/not_in_gold": 1}


def test_pairs_that_biored_does_not_annotate_are_left_out_and_counted():
    kept = Relation(BRAF, MAPK1, "Bind", novel=False)
    pairs = [(MELANOMA, FEVER), (V600E, BRAF), (BRAF, HUMAN)]
    gold = doc("1", kept, *(Relation(*pair, "Association", novel=True) for pair in pairs))
    tally = Tally()
    assert only_scored([gold], NOT_SCORED, tally, "gold") == [doc("1", kept)]
    assert tally.counts == {"gold_relation/not_scored": 3}


def test_another_corpus_scores_every_pair():
    gold = doc("1", Relation(BRAF, HUMAN, "lives_in"), Relation(MELANOMA, FEVER, "causes"))
    tally = Tally()
    assert only_scored([gold], (), tally, "gold") == [gold] and not tally.counts
    assert counts(score([gold], [gold])) == dict.fromkeys(METRICS, (2, 0, 0))


def test_without_novelty_on_either_side_its_metrics_equal_the_others():
    gold = doc("1", Relation(BRAF, MELANOMA, "causes"), Relation(MAPK1, MELANOMA, "causes"))
    said = doc("1", Relation(BRAF, MELANOMA, "cures"), Relation(BRAF, FEVER, "causes"))
    found = counts(score([gold], [said]))
    assert found["pair"] == found["pair_novelty"] == (1, 1, 1)
    assert found["pair_type"] == found["all"] == (0, 2, 2)


@pytest.mark.parametrize(
    ("tasks", "novelty", "learnt"),
    [
        ("both", True, METRICS),
        ("relation", True, ("pair", "pair_type")),
        ("novelty", True, ("pair", "pair_novelty")),
        ("both", False, ("pair", "pair_type")),
    ],
)
def test_metrics_of_untrained_tasks_are_left_out(tasks, novelty, learnt):
    assert learnt_metrics(replace(SCHEMA, novelty=novelty), tasks) == learnt


def test_the_floor_of_another_corpus_is_its_first_legal_type_without_novelty():
    text = "<braf|Gene|673> causes <melanoma|Disease|D008545> in <mice|Species|10090>"
    legal = {
        ("Disease", "Gene"): frozenset({"causes", "cures"}),
        ("Gene", "Species"): frozenset({"in"}),
    }
    mine = RelationSchema("mine", ("in", "cures", "causes"), legal, novelty=False)
    (found,) = floor([document(text)], mine)
    assert {(r.type, r.novel) for r in found.relations} == {("cures", None), ("in", None)}


def test_two_documents_with_one_id_are_refused():
    with pytest.raises(ValueError, match="document 1 occurs twice among the gold ones"):
        score([doc("1"), doc("1")], [])


def test_nothing_predicted_and_nothing_to_predict_is_zero():
    empty = score([doc("1")], [doc("1")])["pair"]
    assert (empty.precision, empty.recall, empty.f1) == (0.0, 0.0, 0.0)
