"""The mentions of many documents as columns: what Arrow and numpy work on all at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from embre.corpora.raw import CheckedDocument, PlainDocuments
from embre.entity_types import TYPE_INDEX, entity_type_of, split_identifiers
from embre.shards.concept_hash import hash_of

NOT_USED = -1  # in place of the index of a type


@dataclass(frozen=True, slots=True)
class MentionColumns:
    """All mentions of some documents, in their order.

    `doc_of`, `starts`, `ends` (num_mentions,): the document's place among them, and characters of
    it. `surfaces` are what is written there. `meaning` (num_mentions,) points into `spellings`,
    the different types and identifiers as the files have them, a tab between the two.
    """

    doc_of: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    surfaces: pa.Array
    meaning: np.ndarray
    spellings: pa.Array

    @classmethod
    def of(cls, docs: Sequence[CheckedDocument]) -> "MentionColumns":
        doc_of = np.repeat(np.arange(len(docs)), [len(doc.mentions) for doc in docs])
        columns = zip(*chain.from_iterable(doc.mentions for doc in docs), strict=True)
        starts, ends, surfaces, types, identifiers, _ = list(columns) or [()] * 6
        # A tab within a type is the space that it stands for: there must be one between the two.
        kinds = [kind.replace("\t", " ") for kind in types]
        pairs = [f"{kind}\t{name}" for kind, name in zip(kinds, identifiers, strict=True)]
        spellings = pa.array(pairs, pa.string()).dictionary_encode()
        return cls(
            doc_of,
            np.array(starts, dtype=np.int64),
            np.array(ends, dtype=np.int64),
            pa.array(surfaces, pa.string()),
            spellings.indices.to_numpy().astype(np.int64),
            spellings.dictionary,
        )

    def only(self, docs: np.ndarray) -> "MentionColumns":
        """The mentions of some documents (a flag for each), as if there were no others."""
        rows = np.flatnonzero(docs[self.doc_of])
        return MentionColumns(
            (np.cumsum(docs) - 1)[self.doc_of[rows]],
            self.starts[rows],
            self.ends[rows],
            self.surfaces.take(pa.array(rows)),
            self.meaning[rows],
            self.spellings,
        )

    @classmethod
    def of_plain(cls, plain: PlainDocuments) -> "MentionColumns":
        spellings = plain.spellings.dictionary_encode()
        return cls(
            plain.doc_of,
            plain.starts,
            plain.ends,
            plain.surfaces,
            spellings.indices.to_numpy().astype(np.int64),
            spellings.dictionary,
        )


class Meaning(NamedTuple):
    """What a spelling means: the index of a type or NOT_USED, and its concepts.

    `hashes` is (0,) where there is none, `identifiers` then empty.
    """

    kind: int
    hashes: tuple[int, ...]
    identifiers: tuple[str, ...]


@lru_cache(maxsize=1 << 18)
def meaning_of(spelling: str) -> Meaning:
    """The meaning of a type and an identifier as a file spells them, a tab between the two."""
    source_type, _, identifier = spelling.partition("\t")
    row = entity_type_of(source_type)
    if row is None:
        return Meaning(NOT_USED, (0,), ())
    names = tuple(dict.fromkeys(ours for ours, _ in split_identifiers(source_type, identifier)))
    hashes = tuple([hash_of(row.name, name) for name in names])
    return Meaning(TYPE_INDEX[row.name], hashes or (0,), names)
