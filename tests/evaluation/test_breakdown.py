"""Groups add up to the whole, and the list of errors is complete."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embre.corpora.biored import NOT_SCORED, SCHEMA
from embre.document import Concept, Document, Mention, Passage, Relation
from embre.evaluation import breakdown
from embre.evaluation.scoring import METRICS, Score, only_scored, score
from embre.tally import Tally

CONCEPTS = [Concept(kind, str(n)) for kind in ("Gene", "Disease", "Chemical") for n in range(3)]
WORDS = "One rises. Two falls. Three stays. Four goes. Five comes."


def made(rng: random.Random, doc_id: str) -> Document:
    """Mentions of concepts at random places, and relations between any two of them."""
    mentions = []
    for _ in range(rng.randrange(2, 14)):
        start, concept = rng.randrange(len(WORDS) - 3), rng.choice(CONCEPTS)
        end = start + 2
        surface = WORDS[start:end]
        mentions.append(
            Mention(start, end, surface, concept.type, (concept,), concept.type, concept.identifier)
        )
    passages = (Passage(0, 10, "title"), Passage(11, len(WORDS), "abstract"))
    doc = Document(doc_id, WORDS, passages, tuple(mentions))
    return replace(doc, relations=tuple(relations_of(rng, doc, rng.randrange(8))))


def relations_of(rng: random.Random, doc: Document, number: int) -> list[Relation]:
    """One relation a pair, legal or not."""
    found = {}
    concepts = sorted(doc.mentions_by_concept())
    for _ in range(number):
        relation = Relation(
            rng.choice(concepts),
            rng.choice(concepts),
            rng.choice(SCHEMA.relation_types),
            rng.choice((True, False, None)),
            round(rng.random(), 2),
        )
        found[relation.pair] = relation
    return list(found.values())


def perturbed(rng: random.Random, doc: Document) -> Document:
    """Relations dropped, relabelled, of other novelty, turned round, and some made up."""
    found = {relation.pair: relation for relation in relations_of(rng, doc, 3)}
    for relation in doc.relations:
        chance = rng.random()
        if chance < 0.2:
            continue
        if chance < 0.4:
            relation = replace(relation, type=rng.choice(SCHEMA.relation_types))
        elif chance < 0.6:
            relation = replace(relation, novel=rng.choice((not relation.novel, None)))
        elif chance < 0.7:
            relation = replace(relation, head=relation.tail, tail=relation.head)
        found[relation.pair] = relation
    return replace(doc, relations=tuple(found.values()))


def corpus(seed: int) -> tuple[list[Document], list[Document]]:
    rng = random.Random(seed)
    gold = [made(rng, str(n)) for n in range(6)]
    predicted = [perturbed(rng, doc) for doc in gold if rng.random() < 0.9]
    predicted.append(made(rng, "unknown"))
    gold = only_scored(gold, NOT_SCORED, Tally(), "gold")
    return gold, only_scored(predicted, NOT_SCORED, Tally(), "predicted")


def total(groups: breakdown.Groups, metric: str) -> Score:
    found = [by_metric[metric] for by_metric in groups.values()]
    return Score(sum(s.tp for s in found), sum(s.fp for s in found), sum(s.fn for s in found))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_groups_of_pairs_add_up_to_the_whole(seed):
    gold, predicted = corpus(seed)
    whole = score(gold, predicted)
    training = [made(random.Random(seed + 1), "t")]
    for groups in (
        breakdown.by_pair_type(gold, predicted),
        breakdown.by_distance(gold, predicted),
        breakdown.by_mentions(gold, predicted),
        breakdown.by_seen(gold, predicted, training),
    ):
        assert {metric: total(groups, metric) for metric in METRICS} == whole
    by_type = breakdown.by_relation_type(gold, predicted)
    for metric in ("pair_type", "all"):
        assert total(by_type, metric) == whole[metric]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_confusion_and_errors_agree_with_the_score(seed):
    gold, predicted = corpus(seed)
    whole = score(gold, predicted)
    found = breakdown.confusion(gold, predicted)
    assert found.labels[0] == "None" and found.counts[0, 0] == 0
    counts = found.counts
    assert counts[1:, 1:].trace() == whole["pair_type"].tp
    assert counts[1:, 1:].sum() == whole["pair"].tp
    assert counts[0].sum() == whole["pair"].fp and counts[:, 0].sum() == whole["pair"].fn
    errors = breakdown.errors(gold, predicted)
    outcomes = [error.outcome for error in errors]
    assert outcomes.count("missed") == whole["pair"].fn
    assert outcomes.count("spurious") == whole["pair"].fp
    assert outcomes.count("wrong type") == whole["pair"].tp - whole["pair_type"].tp
    assert outcomes.count("wrong novelty") == whole["pair_type"].tp - whole["all"].tp


def test_with_a_schema_unrelated_pairs_are_counted():
    gold, _ = corpus(3)
    bare = [replace(doc, relations=()) for doc in gold]
    found = breakdown.confusion(bare, bare, SCHEMA)
    assert found.labels == SCHEMA.labels
    assert found.counts[0, 0] == sum(len(list(SCHEMA.candidates(doc))) for doc in gold)
    assert found.counts.sum() == found.counts[0, 0]


@pytest.fixture
def doc() -> Document:
    text = "BRAF and MEK. Melanoma was treated. Nothing here. Dabrafenib helped; BRAF too."
    spots = [
        ("BRAF", "Gene", "673", 0),
        ("MEK", "Gene", "5604", 0),
        ("Melanoma", "Disease", "D1", 0),
        ("Dabrafenib", "Chemical", "C1", 0),
        ("BRAF", "Gene", "673", 20),
    ]
    mentions = []
    for word, kind, identifier, after in spots:
        start = text.index(word, after)
        concepts = (Concept(kind, identifier),)
        end = start + len(word)
        mentions.append(Mention(start, end, word, kind, concepts, kind, identifier))
    return Document("1", text, (Passage(0, len(text), "abstract"),), tuple(mentions))


BRAF, MEK, MELANOMA, DRUG = (
    Concept("Gene", "673"),
    Concept("Gene", "5604"),
    Concept("Disease", "D1"),
    Concept("Chemical", "C1"),
)


def test_pairs_fall_into_groups_by_where_they_are_mentioned(doc):
    pairs = [(BRAF, MEK), (BRAF, MELANOMA), (MELANOMA, DRUG), (BRAF, DRUG)]
    gold = replace(doc, relations=tuple(Relation(*pair, "Association", True) for pair in pairs))
    by_distance = breakdown.by_distance([gold], [gold])
    assert {name: found["pair"].tp for name, found in by_distance.items()} == {
        "same sentence": 2,
        "next sentence": 1,
        "farther apart": 1,
    }
    assert list(breakdown.by_mentions([gold], [gold])) == ["1 or none"]
    training = [replace(doc, doc_id="2", mentions=doc.mentions[:3], relations=gold.relations[:1])]
    by_seen = breakdown.by_seen([gold], [gold], training)
    assert {name: found["pair"].tp for name, found in by_seen.items()} == {
        "the pair, related": 1,
        "both concepts": 1,
        "one concept": 2,
    }


def test_an_error_has_prediction_gold_and_sentence(doc):
    gold = replace(
        doc,
        relations=(
            Relation(BRAF, MELANOMA, "Association", True),
            Relation(DRUG, MELANOMA, "Negative_Correlation", True),
        ),
    )
    said = replace(doc, relations=(Relation(MELANOMA, BRAF, "Association", False, 0.8),))
    novelty, missed = breakdown.errors([gold], [said], {("1", (DRUG, MELANOMA)): 0.2})
    assert (novelty.outcome, novelty.gold_novel, novelty.predicted_novel) == (
        "wrong novelty",
        True,
        False,
    )
    assert novelty.text == "BRAF and MEK. Melanoma was treated."
    assert (novelty.first_name, novelty.second_name, novelty.probability) == (
        "Melanoma",
        "BRAF",
        0.8,
    )
    assert (missed.outcome, missed.predicted_type, missed.probability) == ("missed", "", 0.2)
    assert missed.text == "Melanoma was treated. … Dabrafenib helped; BRAF too."
