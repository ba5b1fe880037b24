"""Find single documents of a shard set and render their word pieces as text."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from embre.entity_types import ENTITY_TYPES
from embre.shards.entities import read_concepts
from embre.shards.shard_set import Block, ShardSet
from embre.tokenization.tokenizer import TextTokenizer
from embre.wording import printable

COLOURS = {name: row.terminal for name, row in ENTITY_TYPES.items()}
NO_SPACE_BEFORE = frozenset(".,;:!?%)]}'-/")
NO_SPACE_AFTER = frozenset("([{'-/")


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """One document of a shard; passages and mentions are in tokens of the document."""

    doc_id: str
    shard: str
    tokens: np.ndarray
    passages: np.ndarray
    mentions: np.ndarray


@dataclass(frozen=True, slots=True)
class ConceptNames:
    """The concept table, indexed by hash."""

    table: pa.Table
    hashes: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, shard_set: ShardSet) -> "ConceptNames":
        table = read_concepts(shard_set)
        order = np.argsort(table["hash"].to_numpy())
        return cls(table, table["hash"].to_numpy()[order], order)

    def label(self, concept: int) -> str:
        """`Gene:673 BRAF`: a concept hash as type, identifier and most frequent surface form."""
        spot = int(np.searchsorted(self.hashes, np.uint64(concept)))
        if spot == len(self.hashes) or self.hashes[spot] != concept:
            return "not in the concept table"
        row = self.table.slice(int(self.order[spot]), 1).to_pylist()[0]
        return printable(f"{row['type']}:{row['identifier']} {row['name']}")


def find_documents(
    shard_set: ShardSet,
    first: int,
    ids: Collection[str] = (),
    progress: Callable[[], None] = lambda: None,
) -> Iterator[StoredDocument]:
    """Yield the first `first` documents of a set and those with the given ids, in shard order.

    `progress` is called after each shard.
    """
    missing = set(ids)
    for entry in shard_set.manifest.shards:
        if first <= 0 and not missing:
            return
        for block in shard_set.load(entry):
            for index, doc_id in enumerate(block.doc_ids):
                if first > 0 or doc_id in missing:
                    yield _cut(block, index, entry.name)
                first -= 1
                missing.discard(doc_id)
        progress()


def word_pieces(tokens: Iterable[int], tokenizer: TextTokenizer) -> list[str]:
    """The word pieces of token ids, with control characters escaped."""
    return [printable(tokenizer.backend.id_to_token(int(token)) or "") for token in tokens]


def join_word_pieces(pieces: Sequence[str]) -> list[str]:
    """Text of each word piece, to be concatenated. The spacing is a guess: shards do not keep it.

    >>> "".join(join_word_pieces("tp ##53 ( p53 ) , p < 0 . 05".split()))
    'tp53 (p53), p < 0.05'
    """
    texts: list[str] = []
    for number, piece in enumerate(pieces):
        before = pieces[number - 1] if number else ""
        decimal = before == "." and piece.isdigit() and number > 1 and pieces[number - 2].isdigit()
        if piece.startswith("##"):
            texts.append(piece.removeprefix("##"))
        elif not number or piece in NO_SPACE_BEFORE or before in NO_SPACE_AFTER or decimal:
            texts.append(piece)
        else:
            texts.append(f" {piece}")
    return texts


def _cut(block: Block, index: int, shard: str) -> StoredDocument:
    start, end = block.starts()[index : index + 2]
    rows = block.mentions
    own = rows[(rows["start"] >= start) & (rows["end"] <= end)].copy()
    own["start"] -= np.uint32(start)
    own["end"] -= np.uint32(start)
    passages = block.docs[block.docs[:, 0] == index, 1].astype(np.int64) - start
    return StoredDocument(block.doc_ids[index], shard, block.tokens[start:end], passages, own)
