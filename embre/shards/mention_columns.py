"""The mentions of many documents as Arrow and numpy columns, for vectorized work."""

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

NOT_USED = -1  # instead of a type index


@dataclass(frozen=True, slots=True)
class MentionColumns:
    """All mentions of a list of documents, in order.

    `doc_of`, `starts`, `ends` (num_mentions,): index of the document, and character span in it.
    `surfaces` (num_mentions,): the text of each span. `meaning` (num_mentions,) indexes
    `spellings`, the distinct "type<tab>identifier" strings of the input files.
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
        # A tab within a type becomes a space, because the tab is the separator.
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
        """Select the mentions of the documents in the mask `docs` and renumber the documents."""
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
    """A parsed spelling: the type index or NOT_USED, and the concepts.

    Without concepts `hashes` is the tuple (0,) and `identifiers` is empty.
    """

    kind: int
    hashes: tuple[int, ...]
    identifiers: tuple[str, ...]


@lru_cache(maxsize=1 << 18)
def meaning_of(spelling: str) -> Meaning:
    """Parse "type<tab>identifier" as spelled in a file."""
    source_type, _, identifier = spelling.partition("\t")
    row = entity_type_of(source_type)
    if row is None:
        return Meaning(NOT_USED, (0,), ())
    names = tuple(dict.fromkeys(name for name, _ in split_identifiers(source_type, identifier)))
    hashes = tuple([hash_of(row.name, name) for name in names])
    return Meaning(TYPE_INDEX[row.name], hashes or (0,), names)
