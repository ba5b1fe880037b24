"""Document → token ids and mention spans.

`text → passages → token ids`, and each mention from characters to tokens. No special tokens: the
stream adds them when it lays documents end to end.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from embre.document import Concept, Document
from embre.entity_types import ENTITY_TYPES
from embre.tally import Tally
from embre.tokenization import TextTokenizer

TYPE_INDEX = {name: index for index, name in enumerate(ENTITY_TYPES)}

# One row per mention and concept: a mention of two concepts has two rows with one span.
MENTION_ROW = np.dtype([("start", "<u4"), ("end", "<u4"), ("type", "u1"), ("concept", "<u8")])

# Entities are tagged inside bibliographies and raw tables too, and say nothing there.
SKIPPED_KINDS = frozenset({"ref", "table"})


@dataclass(frozen=True, slots=True)
class Encoded:
    """One document as numbers.

    `tokens` (num_tokens,) are its ids; `passages` (num_passages,) says where each passage starts;
    `mentions` (num_mentions,) has dtype MENTION_ROW, spans in tokens of this document.
    """

    doc_id: str
    tokens: np.ndarray
    passages: np.ndarray
    mentions: np.ndarray


@lru_cache(maxsize=1 << 16)
def concept_hash(concept: Concept) -> int:
    """64 bits that name a concept in a shard whatever the entity vocabulary; never 0.

    Eight bytes of BLAKE2b over `Type:identifier`. Among ten million concepts the chance of one
    collision is about 3e-6.
    """
    digest = hashlib.blake2b(str(concept).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def encode_documents(
    docs: Sequence[Document], tokenizer: TextTokenizer, tally: Tally
) -> Iterator[Encoded | None]:
    """Each document as numbers, in order; None for one without a token, which is counted."""
    kept = [[p for p in doc.passages if p.kind not in SKIPPED_KINDS] for doc in docs]
    texts = [
        doc.text[p.start : p.end]
        for doc, passages in zip(docs, kept, strict=True)
        for p in passages
    ]
    encodings = iter(tokenizer.backend.encode_batch(texts, add_special_tokens=False))
    for doc, passages in zip(docs, kept, strict=True):
        pieces = [next(encodings) for _ in passages]
        for _ in range(len(doc.passages) - len(passages)):
            tally.drop("passage/references_or_table", doc.doc_id)
        starts = np.cumsum([0, *(len(piece.ids) for piece in pieces)])
        if starts[-1] == 0:
            tally.drop("document/without_text", doc.doc_id)
            yield None
            continue
        offsets = np.concatenate(
            [
                np.asarray(piece.offsets, dtype=np.int64).reshape(-1, 2) + passage.start
                for piece, passage in zip(pieces, passages, strict=True)
            ]
        )
        yield Encoded(
            doc_id=doc.doc_id,
            tokens=np.concatenate([np.asarray(piece.ids, dtype=np.int64) for piece in pieces]),
            passages=starts[:-1].astype(np.int64),
            mentions=token_spans(doc, offsets, tally),
        )


def token_spans(doc: Document, offsets: np.ndarray, tally: Tally) -> np.ndarray:
    """The mentions of a document as rows over its tokens, sorted by start.

    `offsets` (num_tokens, 2) are the characters of each token. A mention covers every token that
    it touches: where it ends inside a word, it takes the whole word piece.
    """
    rows = []
    for mention in doc.mentions:
        if mention.type not in TYPE_INDEX:
            tally.drop("mention/type_not_used", doc.doc_id, mention.source_type)
            continue
        start = int(np.searchsorted(offsets[:, 1], mention.start, side="right"))
        end = int(np.searchsorted(offsets[:, 0], mention.end, side="left"))
        if start >= end:
            tally.drop("mention/without_token", doc.doc_id, mention.text)
            continue
        hashes = [concept_hash(c) for c in dict.fromkeys(mention.concepts)] or [0]
        rows += [(start, end, TYPE_INDEX[mention.type], value) for value in hashes]
    return np.array(sorted(rows), dtype=MENTION_ROW)
