"""Documents → token ids and mention spans.

Passages are tokenized separately, and mentions are mapped from characters to tokens. There are no
special tokens: the stream adds them when it packs documents into strips.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np

from embre.corpora.raw import CheckedDocument
from embre.document import Passage
from embre.end_to_end import starts_of, within
from embre.shards.mention_columns import NOT_USED, MentionColumns, meaning_of
from embre.shards.mention_row import MENTION_ROW
from embre.tally import Tally
from embre.tokenization.tokenizer import Pieces

# Entities are tagged in bibliographies and raw tables too, where they carry no context.
SKIPPED_KINDS = frozenset({"ref", "table"})


class AnyTokenizer(Protocol):
    """A tokenizer, plain or with a cache of words."""

    def encode(self, texts: Sequence[str], begins: np.ndarray | None = None) -> Pieces: ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """Encoded documents, end to end.

    `tokens` (num_tokens,) are token ids; `passages` (num_passages,) the start of each passage and
    `mentions` (num_mentions,) of MENTION_ROW sorted spans, both in tokens of their document.
    `token_starts`, `passage_starts`, `mention_starts` (num_documents + 1,) are the offsets of each
    document in these arrays. `index` (num_documents,) is its index in the input.
    """

    doc_ids: list[str]
    index: np.ndarray
    tokens: np.ndarray
    token_starts: np.ndarray
    passages: np.ndarray
    passage_starts: np.ndarray
    mentions: np.ndarray
    mention_starts: np.ndarray


def encode_documents(
    docs: Sequence[CheckedDocument],
    tokenizer: AnyTokenizer,
    tally: Tally,
    columns: MentionColumns | None = None,
) -> Encoded:
    """Encode documents, in order; documents without tokens are dropped and counted in `tally`.

    A mention covers every token it overlaps, so an end inside a word piece takes the whole piece.
    `columns` are the mentions of the documents, if already extracted.
    """
    kept = [_used_passages(doc, tally) for doc in docs]
    pairs = zip(docs, kept, strict=True)
    texts = [doc.text[p.start : p.end] for doc, passages in pairs for p in passages]
    # All documents share one axis of characters: offset in the document plus its base.
    bases = starts_of([len(doc.text) + 1 for doc in docs])
    passage_starts = starts_of([len(passages) for passages in kept])
    doc_of_passage = np.repeat(np.arange(len(docs)), np.diff(passage_starts))
    begins = np.array([p.start for passages in kept for p in passages], dtype=np.int64)
    pieces = tokenizer.encode(texts, begins + bases[doc_of_passage])
    token_starts = pieces.first[passage_starts]
    columns = columns or MentionColumns.of(docs)
    rows, doc_of_row = _mention_rows(docs, columns, bases, pieces.starts, pieces.ends, tally)
    for name in ("start", "end"):
        rows[name] -= token_starts[doc_of_row].astype(np.uint32)
    index = np.flatnonzero(np.diff(token_starts))
    for empty in np.flatnonzero(np.diff(token_starts) == 0).tolist():
        tally.drop("document/without_text", docs[empty].doc_id)
    filled = np.isin(doc_of_passage, index)
    return Encoded(
        doc_ids=[docs[i].doc_id for i in index.tolist()],
        index=index,
        tokens=pieces.ids,
        token_starts=np.append(token_starts[index], token_starts[-1]),
        passages=(pieces.first[:-1] - token_starts[doc_of_passage])[filled],
        passage_starts=starts_of(np.diff(passage_starts)[index]),
        mentions=rows,
        mention_starts=np.searchsorted(doc_of_row, np.append(index, len(docs))),
    )


def _used_passages(doc: CheckedDocument, tally: Tally) -> list[Passage]:
    used = [passage for passage in doc.passages if passage.kind not in SKIPPED_KINDS]
    for _ in range(len(doc.passages) - len(used)):
        tally.drop("passage/references_or_table", doc.doc_id)
    return used


def _mention_rows(
    docs: Sequence[CheckedDocument],
    columns: MentionColumns,
    bases: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    tally: Tally,
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted mention rows with spans over all tokens, and the document index of each row.

    `starts` and `ends` (num_tokens,) are the character spans of the tokens over all documents.
    """
    base = bases[columns.doc_of]
    first = np.searchsorted(ends, columns.starts + base, side="right")
    last = np.searchsorted(starts, columns.ends + base, side="left")
    meanings = [*map(meaning_of, columns.spellings.to_pylist())]
    all_kinds, all_hashes, _ = zip(*meanings, strict=True) if meanings else [()] * 3
    kinds = np.array(all_kinds, dtype=np.int64)[columns.meaning]
    _count_lost(docs, columns, kinds, first >= last, tally)
    keep = (kinds >= 0) & (first < last)
    hashes = np.array([*chain.from_iterable(all_hashes)], dtype=np.uint64)
    num_hashes = np.array([*map(len, all_hashes)], dtype=np.int64)
    meaning = columns.meaning[keep]
    copies = num_hashes[meaning]
    of = np.repeat(np.flatnonzero(keep), copies)
    nth = within(copies)
    rows = np.empty(len(of), dtype=MENTION_ROW)
    rows["start"], rows["end"], rows["type"] = first[of], last[of], kinds[of]
    rows["concept"] = hashes[np.repeat(starts_of(num_hashes)[:-1][meaning], copies) + nth]
    # Nearly sorted: a stable sort by one key is fast. Concepts of one span rarely need the lexsort.
    key = ((first << 34) | (np.minimum(last - first, (1 << 26) - 1) << 8) | (kinds & 0xFF))[of]
    order = np.argsort(key, kind="stable")
    concepts = rows["concept"][order]
    if np.any((np.diff(key[order]) == 0) & (concepts[1:] < concepts[:-1])):
        order = np.lexsort((rows["concept"], key))
    return rows[order], columns.doc_of[of][order]


def _count_lost(
    docs: Sequence[CheckedDocument],
    columns: MentionColumns,
    kinds: np.ndarray,
    without_token: np.ndarray,
    tally: Tally,
) -> None:
    for number in np.flatnonzero((kinds == NOT_USED) | without_token).tolist():
        doc, start = docs[columns.doc_of[number]], columns.starts[number]
        surface = columns.surfaces[number].as_py()
        if kinds[number] == NOT_USED:
            source_type, _, _ = columns.spellings[columns.meaning[number]].as_py().partition("\t")
            tally.drop("mention/type_not_used", doc.doc_id, source_type)
        elif any(p.start <= start < p.end and p.kind in SKIPPED_KINDS for p in doc.passages):
            tally.drop("mention/in_references_or_table", doc.doc_id, surface)
        else:
            tally.drop("mention/without_token", doc.doc_id, surface)
