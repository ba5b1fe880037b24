"""The demo corpus is well formed, can be learnt from, and cannot be won without reading."""

import re
from collections import Counter

import pytest

from embre.corpora import read_documents, write_pubtator
from embre.corpora.biored import SCHEMA
from embre.demo.corpus import make_catalogue, make_corpus
from embre.document import Document
from embre.evaluation.scoring import floor, score
from embre.tally import Tally

NUM_DOCUMENTS = 400


@pytest.fixture(scope="module")
def docs() -> list[Document]:
    return make_corpus(NUM_DOCUMENTS, seed=7)


def words_of(doc: Document) -> list[str]:
    return re.findall(r"\w+(?:[-.]\w+)*", doc.text.lower())


def test_a_seed_gives_the_same_corpus_and_another_seed_another(docs):
    assert make_corpus(50, seed=7) == docs[:50]
    assert make_corpus(50, seed=8) != docs[:50]
    assert [doc.doc_id for doc in docs[:2]] == ["90000001", "90000002"]


def test_every_mention_is_where_it_says(docs):
    for doc in docs:
        assert [doc.text[m.start : m.end] for m in doc.mentions] == [m.text for m in doc.mentions]
        assert "".join(doc.text[p.start : p.end] + " " for p in doc.passages) == doc.text + " "


def test_every_relation_is_legal_and_its_concepts_are_mentioned(docs):
    for doc in docs:
        assert {relation.pair for relation in doc.relations} <= set(SCHEMA.candidates(doc))
        assert len({relation.pair for relation in doc.relations}) == len(doc.relations)
        for relation in doc.relations:
            assert relation.type in SCHEMA.legal_types(*relation.pair)


def test_labels_and_novelty_are_mixed(docs):
    relations = [relation for doc in docs for relation in doc.relations]
    labels = Counter(relation.type for relation in relations)
    assert len(labels) == 5
    assert min(labels.values()) > 0.03 * len(relations)
    assert max(labels.values()) < 0.5 * len(relations)
    assert 0.5 < sum(bool(relation.novel) for relation in relations) / len(relations) < 0.7


def test_texts_are_short_and_their_words_few(docs):
    lengths = [len(words_of(doc)) for doc in docs]
    assert 45 <= min(lengths) and max(lengths) <= 110
    assert len({word for doc in docs for word in words_of(doc)}) < 900


def test_no_two_entities_share_a_name():
    entities = [entity for group in make_catalogue().values() for entity in group]
    names = Counter(name for entity in entities for name in entity.names)
    assert names.most_common(1)[0][1] == 1


def test_claims_recur_across_documents_so_that_names_predict_names(docs):
    pairs = Counter(relation.pair for doc in docs for relation in doc.relations)
    recurring = sum(count for count in pairs.values() if count > 2)
    assert recurring > 0.4 * pairs.total()


def test_calling_every_pair_related_scores_low(docs):
    scores = score(docs, floor(docs, SCHEMA))
    assert scores["pair"].f1 < 0.5
    assert scores["all"].f1 < 0.35


def test_comes_back_from_pubtator_unchanged(docs, tmp_path):
    tally = Tally()
    write_pubtator(tmp_path / "demo.PubTator", docs)
    assert list(read_documents(tmp_path / "demo.PubTator", tally)) == docs
    assert not tally.counts
