"""Sentence splitting."""

import pytest

from embre.corpora import read_documents
from embre.document import Concept, Document, Mention, Passage
from embre.relations.sentences import sentence_of, sentence_starts, sentence_text
from embre.tally import Tally


def sentences(text: str, *mentions: Mention) -> list[str]:
    doc = Document("1", text, (Passage(0, len(text), "abstract"),), mentions)
    starts = sentence_starts(doc)
    return [sentence_text(doc, starts, number) for number in range(len(starts))]


@pytest.mark.parametrize(
    "text",
    [
        "BRAF drives melanoma.|It is frequent.",
        "Is it frequent?|Yes (p < 0.05).|The dose was 1.5 mg.",
        "Seen in E. coli and S. Typhimurium (Fig. 2).|Others vs. Placebo, i.e. none.",
        'Smith et al. 1999 found p.V600E.|(This was new.)|"Was it?"',
        "No mark at the end",
    ],
)
def test_a_text_is_split_into_sentences(text):
    assert sentences(text.replace("|", " ")) == text.split("|")


def test_no_mention_is_cut_and_every_passage_starts_a_sentence():
    text = "Factor Inc. Alpha rises. It falls"
    alpha = Mention(0, 17, "", "Gene", (Concept("Gene", "1"),), "Gene", "1")
    assert sentences(text, alpha) == ["Factor Inc. Alpha rises.", "It falls"]
    passages = (Passage(0, 11, "title"), Passage(12, len(text), "abstract"))
    starts = sentence_starts(Document("1", text, passages, ()))
    assert starts == [0, 12, 25]
    assert [sentence_of(starts, place) for place in (0, 11, 12, 30)] == [0, 0, 1, 2]
    assert sentence_starts(Document("1", "", (), ())) == [0]


def test_abstracts_have_some_ten_sentences(corpora):
    docs = list(read_documents(corpora / "biored" / "Dev.PubTator", Tally()))
    lengths = [len(sentence_starts(doc)) for doc in docs]
    assert 9 < sum(lengths) / len(lengths) < 14
