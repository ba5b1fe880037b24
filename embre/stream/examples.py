"""Examples in columns: documents or pieces of long ones, which a stream shuffles.

Block ─cut─▶ Examples ─take, join─▶ Examples in another order
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from embre.shards.mention_row import MENTION_ROW
from embre.shards.shard_set import Block

ROW_BYTES = np.dtype(f"V{MENTION_ROW.itemsize}")


@dataclass(frozen=True, slots=True)
class Examples:
    """E examples end to end.

    `doc_ids`: E document ids. `tokens` (n,): example e has `token_starts[e]` to
    `token_starts[e + 1]`. `mentions` (m,) of MENTION_ROW, indexed in the same way by
    `mention_starts`; spans are in tokens of the example. `offsets` (E,): index of the first token
    in the document. `keys` (E,): 64-bit hash of (seed, epoch, document), which seeds all draws.
    """

    doc_ids: list[str]
    tokens: np.ndarray
    token_starts: np.ndarray
    mentions: np.ndarray
    mention_starts: np.ndarray
    offsets: np.ndarray
    keys: np.ndarray

    def __len__(self) -> int:
        return len(self.doc_ids)

    @property
    def lengths(self) -> np.ndarray:
        """(E,) number of tokens per example."""
        return np.diff(self.token_starts)

    def part(self, first: int, last: int) -> "Examples":
        """Slice examples `first` to `last` (exclusive); copies only the start indices."""
        token_starts = self.token_starts[first : last + 1]
        mention_starts = self.mention_starts[first : last + 1]
        return Examples(
            self.doc_ids[first:last],
            self.tokens[token_starts[0] : token_starts[-1]],
            token_starts - token_starts[0],
            self.mentions[mention_starts[0] : mention_starts[-1]],
            mention_starts - mention_starts[0],
            self.offsets[first:last],
            self.keys[first:last],
        )

    def take(self, chosen: np.ndarray) -> "Examples":
        """Copy the examples with these indices, in this order."""
        tokens, token_starts = _gather(self.tokens, self.token_starts, chosen)
        rows, mention_starts = _gather(self.mentions.view(ROW_BYTES), self.mention_starts, chosen)
        return Examples(
            [self.doc_ids[number] for number in chosen.tolist()],
            tokens,
            token_starts,
            rows.view(MENTION_ROW),
            mention_starts,
            self.offsets[chosen],
            self.keys[chosen],
        )


NO_EXAMPLES = Examples(
    [],
    np.zeros(0, dtype=np.uint16),
    np.zeros(1, dtype=np.int64),
    np.zeros(0, dtype=MENTION_ROW),
    np.zeros(1, dtype=np.int64),
    np.zeros(0, dtype=np.int64),
    np.zeros(0, dtype=np.uint64),
)


def join(parts: Sequence[Examples]) -> Examples:
    """Concatenate examples."""
    if not parts:
        return NO_EXAMPLES
    # As bytes: numpy is slow to concatenate arrays with fields.
    rows = np.concatenate([part.mentions.view(ROW_BYTES) for part in parts])
    return Examples(
        [name for part in parts for name in part.doc_ids],
        np.concatenate([part.tokens for part in parts]),
        _starts(np.concatenate([part.lengths for part in parts])),
        rows.view(MENTION_ROW),
        _starts(np.concatenate([np.diff(part.mention_starts) for part in parts])),
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.keys for part in parts]),
    )


def cut(block: Block, limit: int, seed: int, epoch: int) -> Examples:
    """Turn a block into examples; split documents longer than `limit` tokens.

    A mention that crosses a cut is dropped.
    """
    starts = block.starts()
    cuts = {
        doc: list(_cuts(block, int(starts[doc]), int(starts[doc + 1]), limit))
        for doc in np.flatnonzero(np.diff(starts) > limit).tolist()
    }
    num_pieces = np.ones(len(block.doc_ids), dtype=np.int64)
    for doc, places in cuts.items():
        num_pieces[doc] += len(places)
    docs = np.repeat(np.arange(len(block.doc_ids)), num_pieces)
    inner = np.array([place for places in cuts.values() for place in places], dtype=np.int64)
    bounds = np.sort(np.concatenate([starts, inner]))
    rows = block.mentions  # sorted by their start
    mention_starts = np.searchsorted(rows["start"], bounds)
    per_piece = np.diff(mention_starts)
    whole = rows["end"] <= np.repeat(bounds[1:], per_piece)
    shift = np.repeat(bounds[:-1], per_piece).astype(rows["start"].dtype)
    rows = rows.view(ROW_BYTES)[whole].view(MENTION_ROW)
    for edge in ("start", "end"):
        rows[edge] -= shift[whole]
    return Examples(
        [block.doc_ids[doc] for doc in docs.tolist()],
        block.tokens,
        bounds,
        rows,
        np.concatenate([[0], np.cumsum(whole)])[mention_starts],
        bounds[:-1] - starts[docs],
        document_keys(seed, epoch, block.doc_ids)[docs],
    )


def document_keys(seed: int, epoch: int, doc_ids: Sequence[str]) -> np.ndarray:
    """(E,) 64-bit hash of `seed/epoch/document id`."""
    prefix, digests = hashlib.blake2b(f"{seed}/{epoch}/".encode(), digest_size=8), []
    for doc_id in doc_ids:
        hasher = prefix.copy()
        hasher.update(doc_id.encode())
        digests.append(hasher.digest())
    return np.frombuffer(b"".join(digests), dtype="<u8")


def _cuts(block: Block, start: int, end: int, limit: int) -> Iterator[int]:
    """Yield the cuts of a document into pieces of at most `limit` tokens: at the start of a passage
    if possible, else between mentions, else anywhere."""
    while end - start > limit:
        start = _cut(block, start, start + limit)
        yield start


def _cut(block: Block, start: int, limit: int) -> int:
    """The last good place to cut in (start, limit]; both are token positions in the block."""
    low, high = np.searchsorted(block.mentions["start"], (start, limit + 1))
    inside = block.mentions[low:high]  # sorted by their start

    def across(place: int) -> np.ndarray:
        return inside[(inside["start"] < place) & (inside["end"] > place)]

    passages = block.docs[:, 1]
    late = passages[(passages > (start + limit) // 2) & (passages <= limit)]
    for place in late[::-1].tolist():
        if not across(place).size:
            return place
    place = limit
    while (cut_through := across(place)).size:
        place = int(cut_through["start"].min())
    return place if place > start else limit


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _gather(
    data: np.ndarray, starts: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the chosen segments of an array; also return their start indices."""
    firsts, lasts = starts[chosen], starts[chosen + 1]
    runs = [data[a:b] for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True)]
    return np.concatenate([data[:0], *runs]), _starts(lasts - firsts)
