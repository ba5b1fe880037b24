"""Mention spans cover their surface in tokens; what is left out is counted; hashes never move."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embre.corpora import read_documents
from embre.corpora.assemble import as_checked
from embre.demo.corpus import make_corpus
from embre.document import Concept, Document, Mention, Passage
from embre.entity_types import TYPE_INDEX
from embre.shards.concept_hash import concept_hash
from embre.shards.encode import Encoded, encode_documents
from embre.tally import Tally
from embre.tokenization.tokenizer import TextTokenizer, load_tokenizer
from tests.tiny import document, tiny_tokenizer

BRAF = Concept("Gene", "673")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def encode(doc: Document, tokenizer: TextTokenizer) -> tuple[Encoded, Tally]:
    tally = Tally()
    return encode_documents([as_checked(doc)], tokenizer, tally), tally


def surface(encoded: Encoded, row: np.void, tokenizer: TextTokenizer) -> str:
    """The characters of a mention's tokens, as the word pieces spell them."""
    pieces = [
        tokenizer.backend.id_to_token(index)
        for index in encoded.tokens[row["start"] : row["end"]].tolist()
    ]
    return "".join(piece.removeprefix("##") for piece in pieces)


def squeezed(text: str) -> str:
    return "".join(text.lower().split())


def test_a_mention_covers_exactly_its_surface(tokenizer: TextTokenizer) -> None:
    for doc in make_corpus(20, seed=3):
        encoded, tally = encode(doc, tokenizer)
        assert len(encoded.mentions) == len(doc.mentions)
        for mention, row in zip(doc.mentions, encoded.mentions, strict=True):
            assert surface(encoded, row, tokenizer) == squeezed(mention.text)
            assert row["type"] == TYPE_INDEX[mention.type]
            assert row["concept"] == concept_hash(mention.concepts[0])
        assert not tally.counts


def test_passages_follow_each_other_without_special_tokens(tokenizer: TextTokenizer) -> None:
    (doc,) = make_corpus(1, seed=3)
    encoded, _ = encode(doc, tokenizer)
    ids = [
        tokenizer.backend.encode(doc.text[p.start : p.end], add_special_tokens=False).ids
        for p in doc.passages
    ]
    assert encoded.tokens.tolist() == ids[0] + ids[1]
    assert encoded.passages.tolist() == [0, len(ids[0])]


def test_a_mention_inside_a_word_takes_the_pieces_that_it_touches(
    tokenizer: TextTokenizer,
) -> None:
    encoded, _ = encode(document("a <gen|Gene|673>e and x<bra|Gene|673>y"), tokenizer)
    found = [surface(encoded, row, tokenizer) for row in encoded.mentions]
    assert found == ["gene", "bra"]


def test_a_mention_of_two_concepts_has_two_rows_with_one_span(tokenizer: TextTokenizer) -> None:
    doc = document("in <braf|Gene|673,5604> mice")
    twice = replace(doc.mentions[0], source_identifier="673,5604,673")
    encoded, _ = encode(replace(doc, mentions=(twice,)), tokenizer)
    assert len(encoded.mentions) == 2
    assert {tuple(row) for row in encoded.mentions[["start", "end", "type"]].tolist()} == {
        (1, 2, TYPE_INDEX["Gene"])
    }
    hashes = {concept_hash(BRAF), concept_hash(Concept("Gene", "5604"))}
    assert set(encoded.mentions["concept"].tolist()) == hashes


def test_a_mention_without_identifier_has_concept_zero(tokenizer: TextTokenizer) -> None:
    encoded, tally = encode(document("in <melanoma|Disease|-> mice"), tokenizer)
    assert encoded.mentions["concept"].tolist() == [0]
    assert not tally.counts


def test_an_unknown_type_is_left_out_and_counted(tokenizer: TextTokenizer) -> None:
    doc = document("the <gene|Gene|673> of mice")
    unknown = Mention(4, 8, "gene", "DomainMotif", (), "DomainMotif", "3514")
    encoded, tally = encode(replace(doc, mentions=(*doc.mentions, unknown)), tokenizer)
    assert len(encoded.mentions) == 1
    assert tally.counts == {"mention/type_not_used": 1}
    assert tally.examples["mention/type_not_used"] == ["1: DomainMotif"]


@pytest.mark.parametrize("kind", ["ref", "table"])
def test_references_and_tables_are_skipped_and_counted(tokenizer: TextTokenizer, kind: str) -> None:
    doc = document("the <gene|Gene|673> of <braf|Gene|673> causes <melanoma|Disease|D1>")
    middle, last = doc.text.index("of"), doc.text.index("causes")
    passages = (
        Passage(0, middle - 1, "title"),
        Passage(middle, last - 1, kind),
        Passage(last, len(doc.text), "paragraph"),
    )
    encoded, tally = encode(replace(doc, passages=passages), tokenizer)
    assert [surface(encoded, row, tokenizer) for row in encoded.mentions] == ["gene", "melanoma"]
    assert len(encoded.tokens) == 4
    assert encoded.passages.tolist() == [0, 2]
    assert tally.counts == {
        "passage/references_or_table": 1,
        "mention/in_references_or_table": 1,
    }


def test_a_document_without_text_is_dropped_and_counted(tokenizer: TextTokenizer) -> None:
    empty = Document("2", " ", (Passage(0, 1, "abstract"),), ())
    without_passage = Document("3", "", (), ())
    docs = [document("the gene", doc_id="1"), empty, without_passage, document("mice", doc_id="4")]
    tally = Tally()
    encoded = encode_documents([as_checked(doc) for doc in docs], tokenizer, tally)
    assert encoded.doc_ids == ["1", "4"]
    assert encoded.index.tolist() == [0, 3]
    assert encoded.token_starts.tolist() == [0, 2, 3]
    assert tally.counts == {"document/without_text": 2}


def test_concept_hashes_are_the_ones_of_shards_already_written() -> None:
    assert concept_hash(BRAF) == 6255795973180466898
    assert concept_hash(Concept("Disease", "D001943")) == 4226130634543401480


def test_one_number_in_two_types_is_two_concepts() -> None:
    assert concept_hash(Concept("Gene", "3906")) != concept_hash(Concept("Species", "3906"))


def test_types_keep_their_numbers() -> None:
    """A shard stores the number of a type: a new type goes to the end of the table."""
    assert list(TYPE_INDEX) == ["Gene", "Disease", "Chemical", "Variant", "Species", "CellLine"]


@pytest.mark.parametrize("content", [None, "{"])
def test_a_folder_without_a_readable_tokenizer_is_said_with_the_remedy(
    tmp_path: Path, content: str | None
) -> None:
    if content:
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match="no readable tokenizer; give a Hugging") as found:
        load_tokenizer(tmp_path)
    assert str(found.value).startswith(str(tmp_path)) and "\n" not in str(found.value)


def test_pubmedbert_covers_the_mentions_of_biored(corpora: Path) -> None:
    tokenizer = load_tokenizer(corpora / "pubmedbert")
    docs = list(read_documents(corpora / "biored" / "Dev.PubTator", Tally()))
    tally = Tally()
    num_rows = num_exact = 0
    for doc in docs:
        encoded = encode_documents([as_checked(doc)], tokenizer, tally)
        spans = np.unique(encoded.mentions[["start", "end", "type"]])
        assert len(spans) == len({(m.start, m.end, m.type) for m in doc.mentions})
        surfaces = {squeezed(doc.text[m.start : m.end]) for m in doc.mentions}
        num_exact += sum(surface(encoded, row, tokenizer) in surfaces for row in encoded.mentions)
        num_rows += len(encoded.mentions)
    assert not tally.counts
    assert num_exact > 0.99 * num_rows, f"{num_exact} of {num_rows} rows cover just the surface"


def test_documents_encoded_together_are_those_encoded_alone(tokenizer: TextTokenizer) -> None:
    docs = list(make_corpus(20, seed=3))
    together = encode_documents([as_checked(doc) for doc in docs], tokenizer, Tally())
    assert together.doc_ids == [doc.doc_id for doc in docs]
    for number, doc in enumerate(docs):
        alone, _ = encode(doc, tokenizer)
        for name in ("tokens", "passages", "mentions"):
            starts = getattr(together, f"{name.removesuffix('s')}_starts")
            part = getattr(together, name)[starts[number] : starts[number + 1]]
            np.testing.assert_array_equal(part, getattr(alone, name))


def test_rows_of_one_span_are_in_order_of_their_concepts(tokenizer: TextTokenizer) -> None:
    """Whichever mention they are of: what counts mentions looks at the last row of a span."""
    doc = document("in <braf|Gene|673,5604,207,1956> mice")
    (mention,) = doc.mentions
    others = [replace(mention, source_identifier=name) for name in ("None", "3845", "-", "4893")]
    encoded, _ = encode(replace(doc, mentions=(mention, *others)), tokenizer)
    concepts = encoded.mentions["concept"].tolist()
    assert concepts == sorted(concepts) and concepts[0] == 0 and len(concepts) == 8
