"""The mentions of many documents as columns: what Arrow and numpy work on all at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
import pyarrow as pa

from embre.concept_hash import hash_of
from embre.corpora.pubtator_plain import PlainDocuments
from embre.corpora.raw import CheckedDocument
from embre.entity_types import ENTITY_TYPES, row_of, split_identifiers

TYPE_INDEX = {name: index for index, name in enumerate(ENTITY_TYPES)}
NOT_USED = -1  # in place of the index of a type


@dataclass(frozen=True, slots=True)
class MentionColumns:
    """All mentions of some documents, in their order.

    `doc_of`, `starts`, `ends` (num_mentions,): the document's place among them, and characters of
    it. `surfaces` are what is written there. `meaning` (num_mentions,) points into `spellings`,
    the different pairs of type and identifier as the files have them.
    """

    doc_of: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    surfaces: pa.Array
    meaning: np.ndarray
    spellings: list[tuple[str, str]]

    @classmethod
    def of(cls, docs: Sequence[CheckedDocument]) -> "MentionColumns":
        doc_of = np.repeat(np.arange(len(docs)), [len(doc.mentions) for doc in docs])
        columns = zip(*chain.from_iterable(doc.mentions for doc in docs), strict=True)
        starts, ends, surfaces, types, identifiers, _ = list(columns) or [()] * 6
        meaning, spellings = _number_pairs(types, identifiers)
        return cls(
            doc_of,
            np.array(starts, dtype=np.int64),
            np.array(ends, dtype=np.int64),
            pa.array(surfaces, pa.string()),
            meaning,
            spellings,
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
        pairs = [spelling.split("\t", 1) for spelling in spellings.dictionary.to_pylist()]
        return cls(
            plain.doc_of,
            plain.starts,
            plain.ends,
            plain.surfaces,
            spellings.indices.to_numpy().astype(np.int64),
            [(source_type, identifier) for source_type, identifier in pairs],
        )


def _number_pairs(
    types: Sequence[str], identifiers: Sequence[str]
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """A number for each pair of strings, and what each number stands for."""
    kinds = pa.array(types, pa.string()).dictionary_encode()
    names = pa.array(identifiers, pa.string()).dictionary_encode()
    width = max(1, len(names.dictionary))
    codes = kinds.indices.to_numpy().astype(np.int64) * width + names.indices.to_numpy()
    pairs = pa.array(codes).dictionary_encode()
    kind_of, name_of = kinds.dictionary.to_pylist(), names.dictionary.to_pylist()
    known = [(kind_of[n // width], name_of[n % width]) for n in pairs.dictionary.to_pylist()]
    return pairs.indices.to_numpy().astype(np.int64), known


@lru_cache(maxsize=1 << 18)
def meaning_of(source_type: str, identifier: str) -> tuple[int, tuple[int, ...]]:
    """The index of a mention's type or NOT_USED, and its concept hashes; (0,) for none."""
    row = row_of(source_type)
    if row is None:
        return NOT_USED, (0,)
    found = {hash_of(row.name, ours) for ours, _ in split_identifiers(source_type, identifier)}
    return TYPE_INDEX[row.name], tuple(found) or (0,)
