"""Mentions as columns are the mentions of the documents, from either reader, and lose none."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embre.corpora import read_raw
from embre.corpora.assemble import check
from embre.corpora.pubtator_plain import read_plain
from embre.corpora.raw import CheckedDocument, Chunk, RawMention
from embre.document import Concept
from embre.entity_types import TYPE_INDEX
from embre.shards.concept_hash import concept_hash
from embre.shards.mention_columns import NOT_USED, MentionColumns, meaning_of
from embre.tally import Tally

Row = tuple[int, int, int, str, str, str]

kinds = st.sampled_from(["", "Gene", "Disease", "β", "a b"])
identifiers = st.sampled_from(["", "673", "MESH:D1", "β", "a\tb"])
mentions = st.builds(
    lambda start, surface, kind, identifier: RawMention(
        start, start + len(surface), surface, kind, identifier, 1
    ),
    st.integers(0, 99),
    st.text("αBc \t", max_size=3),
    kinds,
    identifiers,
)
documents = st.lists(st.lists(mentions, max_size=4), max_size=5).map(
    lambda of: [
        CheckedDocument(str(n), None, None, "", (), found, "a") for n, found in enumerate(of)
    ]
)


def rows_of(docs: list[CheckedDocument]) -> list[Row]:
    return [(n, *mention[:5]) for n, doc in enumerate(docs) for mention in doc.mentions]


def rows_in(columns: MentionColumns) -> list[Row]:
    named = zip(
        *(c.tolist() for c in (columns.doc_of, columns.starts, columns.ends, columns.surfaces)),
        columns.spellings.take(pa.array(columns.meaning)).to_pylist(),
        strict=True,
    )
    return [(*row, *spelling.split("\t", 1)) for *row, spelling in named]


@settings(deadline=None)
@given(documents)
def test_columns_hold_every_mention_in_order(docs: list[CheckedDocument]) -> None:
    columns = MentionColumns.of(docs)
    assert rows_in(columns) == rows_of(docs)
    assert len(columns.spellings.unique()) == len(columns.spellings)


@settings(deadline=None)
@given(documents, st.data())
def test_those_of_some_documents_are_theirs_alone(
    docs: list[CheckedDocument], data: st.DataObject
) -> None:
    stays = data.draw(st.lists(st.booleans(), min_size=len(docs), max_size=len(docs)))
    found = MentionColumns.of(docs).only(np.array(stays, dtype=bool))
    assert rows_in(found) == rows_of([doc for doc, keep in zip(docs, stays, strict=True) if keep])


def test_both_readers_give_one_set_of_columns() -> None:
    data = (
        b"1|t|BRAF in mice\n1|a|KRAS.\n1\t0\t4\tBRAF\tGene\t673\n1\t13\t17\tKRAS\tGene\t3845\n\n"
        b"2|t|none\n2|a|\n\n3|t|BRAF\n3|a|\n3\t0\t4\tBRAF\tGene\t673\n\n"
    )
    chunk = Chunk("a", "pubtator", 1, data)
    plain, rest = read_plain(chunk)
    docs = [check(raw, Tally()) for raw in read_raw(chunk, Tally())]
    at_once, careful = MentionColumns.of_plain(plain), MentionColumns.of(docs)
    assert not rest and rows_in(at_once) == rows_in(careful) == rows_of(docs)
    assert at_once.spellings.to_pylist() == ["Gene\t673", "Gene\t3845"]
    assert careful.spellings == at_once.spellings


def test_a_tab_in_a_type_is_a_space() -> None:
    mention = RawMention(0, 1, "A", "Cell\tLine", "CVCL:0001\t", 1)
    columns = MentionColumns.of([CheckedDocument("1", None, None, "A", (), [mention], "a")])
    assert columns.spellings.to_pylist() == ["Cell Line\tCVCL:0001\t"]
    assert meaning_of("Cell Line\tCVCL:0001\t").identifiers == ("CVCL_0001",)


@pytest.mark.parametrize(
    ("source_type", "identifier", "concepts"),
    [
        ("Gene", "673", ["673"]),
        ("GeneOrGeneProduct", "673", ["673"]),
        ("Gene", "673;5604;673", ["673", "5604"]),
        ("Gene", "", []),
        ("Gene", "-", []),
    ],
)
def test_a_spelling_means_a_type_and_hashes_of_concepts(
    source_type: str, identifier: str, concepts: list[str]
) -> None:
    hashes = tuple(concept_hash(Concept("Gene", name)) for name in concepts)
    meaning = meaning_of(f"{source_type}\t{identifier}")
    assert meaning == (TYPE_INDEX["Gene"], hashes or (0,), tuple(concepts))


def test_a_type_that_is_not_used_has_no_number() -> None:
    assert meaning_of("DomainMotif\t3514").kind == NOT_USED
