"""What is put into parts comes out of them, any documents in any order; the index tells of each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embre.corpora.assemble import as_checked
from embre.corpora.raw import CheckedDocument
from embre.demo.corpus import make_corpus
from embre.document import Passage
from embre.held_out import fingerprint
from embre.sharding.parts import (
    PartRows,
    from_table,
    index_of,
    open_part,
    read_index,
    split_and_place,
    to_table,
    write_part,
)
from embre.shards.encode import Encoded, encode_documents
from embre.tally import Tally
from embre.tokenization.tokenizer import TextTokenizer
from tests.tiny import document, tiny_tokenizer

ARRAYS = ("tokens", "passages", "mentions")
BARE = [document(text, doc_id=f"bare-{n}") for n, text in enumerate(["the gene", "in mice", "of"])]
DOCS = [as_checked(doc) for doc in (*make_corpus(7, seed=4), *BARE)]
GROUPS = [DOCS[:4], DOCS[4:9], DOCS[9:]]  # the last is one document without a mention


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def table_of(
    docs: Sequence[CheckedDocument], tokenizer: TextTokenizer, vocabulary: int = 1000
) -> pa.Table:
    encoded = encode_documents(docs, tokenizer, Tally())
    index = index_of(docs, [fingerprint(doc) for doc in docs], encoded, 0.5)
    return to_table(encoded, index, vocabulary)


@pytest.fixture(scope="module")
def parts(tokenizer: TextTokenizer, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three parts; the second was written in two tables."""
    folder = tmp_path_factory.mktemp("parts")
    paths = [folder / f"part-{n}.arrow" for n in range(3)]
    for path, docs in zip(paths, GROUPS, strict=True):
        write_part(path, [table_of(some, tokenizer) for some in (docs[:2], docs[2:]) if some])
    return paths


def places(parts: list[Path]) -> dict[str, tuple[int, int]]:
    """Part and row of each document."""
    return {
        name: (number, row)
        for number, path in enumerate(parts)
        for row, name in enumerate(open_part(path)["doc_id"].to_pylist())
    }


def assert_same(found: Encoded, docs: Sequence[CheckedDocument], tokenizer: TextTokenizer) -> None:
    wanted = encode_documents(docs, tokenizer, Tally())
    assert found.doc_ids == wanted.doc_ids
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        starts = f"{name.removesuffix('s')}_starts"
        np.testing.assert_array_equal(getattr(found, starts), getattr(wanted, starts))
    assert found.mentions.dtype == wanted.mentions.dtype


@settings(deadline=None)
@given(st.lists(st.sampled_from(DOCS), min_size=1, max_size=20), st.integers(0, 19))
def test_any_documents_come_back_in_the_order_asked_for(
    parts: list[Path], tokenizer: TextTokenizer, docs: list[CheckedDocument], cut: int
) -> None:
    where, cut = places(parts), cut % len(docs)
    numbers = np.array([where[doc.doc_id] for doc in docs], dtype=np.uint32)
    found = PartRows.read(parts, numbers[:, 0], numbers[:, 1])
    assert_same(found.take(cut, len(docs)), docs[cut:], tokenizer)
    if cut:
        assert_same(found.take(0, cut), docs[:cut], tokenizer)


def test_only_the_parts_asked_for_are_opened(
    parts: list[Path], tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    where = places(parts)
    docs = [doc for doc in DOCS if where[doc.doc_id][0] == 1]
    rows = np.array([where[doc.doc_id][1] for doc in docs], dtype=np.uint32)
    paths = [tmp_path / "absent", parts[1], tmp_path / "absent"]
    found = PartRows.read(paths, np.ones(len(rows), np.uint32), rows)
    assert_same(found.take(0, len(rows)), docs, tokenizer)


@pytest.mark.parametrize("docs", [DOCS, BARE[:1], [DOCS[0], DOCS[0]]], ids=["all", "bare", "twice"])
def test_a_table_holds_what_was_encoded(tokenizer: TextTokenizer, docs: list) -> None:
    docs = [doc if isinstance(doc, CheckedDocument) else as_checked(doc) for doc in docs]
    assert_same(from_table(table_of(docs, tokenizer)), docs, tokenizer)


def test_a_part_of_a_table_is_no_other_documents(tokenizer: TextTokenizer) -> None:
    table = table_of(DOCS, tokenizer)
    assert_same(from_table(table.slice(3, 4)), DOCS[3:7], tokenizer)


@pytest.mark.parametrize(
    ("vocabulary", "dtype", "num_bytes"), [(1 << 16, np.uint16, 2), ((1 << 16) + 1, np.uint32, 4)]
)
def test_token_ids_take_two_bytes_where_they_fit(
    tokenizer: TextTokenizer, tmp_path: Path, vocabulary: int, dtype: type, num_bytes: int
) -> None:
    table = table_of(DOCS, tokenizer, vocabulary)
    assert table["tokens"].type.value_type.bit_width == 8 * num_bytes
    write_part(tmp_path / "part.arrow", [table])
    numbers = np.arange(2, dtype=np.uint32)
    found = PartRows.read([tmp_path / "part.arrow"], numbers * 0, numbers)
    assert found.take(0, 2).tokens.dtype == dtype


def test_the_highest_token_id_survives(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    encoded = encode_documents(DOCS, tokenizer, Tally())
    for vocabulary in (1 << 16, 1 << 18):
        encoded.tokens[:] = vocabulary - 1
        index = index_of(DOCS, [fingerprint(doc) for doc in DOCS], encoded, 0.5)
        assert set(from_table(to_table(encoded, index, vocabulary)).tokens) == {vocabulary - 1}


def test_a_part_is_sorted_by_split_and_place_and_its_index_with_it(
    parts: list[Path], tokenizer: TextTokenizer
) -> None:
    for path, docs in zip(parts, GROUPS, strict=True):
        index = read_index(path)
        assert len(index) == len(docs)
        order = list(zip(index["validation"].tolist(), index["place"].tolist(), strict=True))
        assert order == sorted(order)
        names = open_part(path)["doc_id"].to_pylist()
        known = {doc.doc_id: doc for doc in docs}
        for name, row in zip(names, index, strict=True):
            alone = encode_documents([known[name]], tokenizer, Tally())
            assert row["tokens"] == len(alone.tokens) and row["mentions"] == len(alone.mentions)
            assert (row["text"], row["title"]) == fingerprint(known[name])
            validation, place = split_and_place(known[name].pmid or name, 0.5)
            assert (row["validation"], row["place"]) == (validation, place)


def index_row(tokenizer: TextTokenizer, **changes: object) -> np.void:
    doc = DOCS[0]._replace(**changes)
    encoded = encode_documents([doc], tokenizer, Tally())
    return index_of([doc], [fingerprint(doc)], encoded, 0.5)[0]


@pytest.mark.parametrize(
    ("ids", "pmid", "name"),
    [
        ({"doc_id": "7", "pmid": "7"}, 7, 0),
        ({"doc_id": "007", "pmid": "007"}, 7, 0),
        ({"doc_id": "PMC8", "pmid": "7", "pmcid": "PMC8"}, 7, 8),
        ({"doc_id": "PMC8", "pmid": None, "pmcid": "PMC8"}, 0, 8),
        ({"doc_id": "7", "pmid": "7", "pmcid": "PMC8"}, 7, 8),
        ({"doc_id": "1" * 19, "pmid": "1" * 19}, 0, 0),
    ],
)
def test_the_index_has_the_numbers_of_a_document(
    tokenizer: TextTokenizer, ids: dict[str, str | None], pmid: int, name: int
) -> None:
    row = index_row(tokenizer, **ids)
    assert (row["pmid"], row["name"]) == (pmid, name)


def test_another_id_is_a_hash_that_no_pmc_number_is(tokenizer: TextTokenizer) -> None:
    names = {
        int(index_row(tokenizer, doc_id=doc_id, pmid=pmid)["name"])
        for doc_id, pmid in [("row 1", None), ("row 2", None), ("row 1", "7"), ("ü\ud800", None)]
    }
    assert len(names) == 3 and min(names) >= 1 << 63


def test_full_text_and_abstract_of_one_pmid_have_one_place(tokenizer: TextTokenizer) -> None:
    abstract = index_row(tokenizer, doc_id="7", pmid="7")
    full = index_row(tokenizer, doc_id="PMC8", pmid="7", pmcid="PMC8")
    alone = index_row(tokenizer, doc_id="PMC8", pmid=None, pmcid="PMC8")
    assert abstract["place"] == full["place"] != alone["place"]


def test_content_tells_tokens_and_mentions_apart_and_no_ids(tokenizer: TextTokenizer) -> None:
    one, other = index_row(tokenizer), index_row(tokenizer, doc_id="7", pmid="7")
    assert one["content"] == other["content"]
    fewer = index_row(tokenizer, mentions=DOCS[0].mentions[1:])
    shorter = index_row(tokenizer, text=DOCS[0].text[:-2])
    first, *rest = DOCS[0].mentions
    longer = index_row(tokenizer, mentions=[first._replace(end=DOCS[0].passages[0].end), *rest])
    whole = (Passage(0, len(DOCS[0].text), "title"),)
    together = index_row(tokenizer, passages=whole)
    rows = (one, fewer, shorter, longer, together)
    assert len({int(row["content"]) for row in rows}) == len(rows)


def test_a_document_without_a_token_has_no_row(tokenizer: TextTokenizer) -> None:
    empty = DOCS[0]._replace(doc_id="empty", pmid=None, text="", passages=(), mentions=[])
    docs = [DOCS[0], empty, DOCS[1]]
    encoded = encode_documents(docs, tokenizer, Tally())
    index = index_of(docs, [fingerprint(doc) for doc in docs], encoded, 0.5)
    assert index["text"].tolist() == [fingerprint(DOCS[0]).text, fingerprint(DOCS[1]).text]
    assert to_table(encoded, index, 1000)["doc_id"].to_pylist() == [
        DOCS[0].doc_id,
        DOCS[1].doc_id,
    ]
