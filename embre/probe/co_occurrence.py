"""Count baselines for hidden concepts: frequency, and co-occurrence with visible concepts.

    training split ─count─▶ TrainCounts ─naive_bayes_scores─▶ a score for each concept of a type

Concepts are numbered by their V rows in the vocabulary.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from embre.end_to_end import within
from embre.shards.entities import EntityVocabulary
from embre.stream.examples import Examples
from embre.stream.source import StreamSource

# Dirichlet prior μ, in documents. Of 0.001 to 3000 the value with the best MRR on the validation
# split of a set of gold corpora, so that the baseline does not lose by its setting.
SMOOTHING = 100.0


@dataclass(frozen=True, slots=True)
class TrainCounts:
    """Counts of the training split; a document is one input of the encoder.

    (V,) `mentions` of each concept and number of `documents` that mention it, out of
    `num_documents`. Co-occurrences are counted for the concepts `queries` (A,), sorted: `keys`
    (P,), sorted, are (index in `queries`) · V + (row of a concept in the same document), and
    `together` (P,) the number of documents with both.
    """

    num_documents: int
    mentions: np.ndarray
    documents: np.ndarray
    queries: np.ndarray
    keys: np.ndarray
    together: np.ndarray

    def co_occurring(self, concept: int) -> tuple[np.ndarray, np.ndarray]:
        """(p,) concepts that share a document with a query, itself included; (p,) how many."""
        place, size = int(np.searchsorted(self.queries, concept)), len(self.documents)
        part = slice(*np.searchsorted(self.keys, [place * size, (place + 1) * size]))
        return self.keys[part] - place * size, self.together[part]

    def by_frequency(self, rows: slice) -> np.ndarray:
        """(r,) score of each concept: its number of mentions."""
        return self.mentions[rows].astype(np.float64)

    def naive_bayes_scores(self, rows: slice, visible: Iterable[int]) -> np.ndarray:
        """(r,) naive Bayes score of each concept given the visible concepts of a document.

        log P(c) + Σ log P(v | c) over the visible v. P(c) is proportional to the mentions of c plus
        one; P(v | c) = (n(c, v) + μ n(v) / N) / (n(c) + μ) with document counts n and the Dirichlet
        smoothing of Zhai & Lafferty (ACM TOIS, 2004), which backs a rare concept off to the average
        document. Terms that are equal for every c are left out, and so are visible concepts without
        a training document; without any visible concept the order is that of frequency.
        """
        scores = np.log(self.mentions[rows] + 1.0)
        seen = [concept for concept in visible if self.documents[concept]]
        scores -= len(seen) * np.log(self.documents[rows] + SMOOTHING)
        for concept in seen:
            others, together = self.co_occurring(concept)
            inside = slice(*np.searchsorted(others, [rows.start, rows.stop]))
            expected = SMOOTHING * self.documents[concept] / self.num_documents
            scores[others[inside] - rows.start] += np.log1p(together[inside] / expected)
        return scores


def count(
    source: StreamSource, queries: np.ndarray, progress: Callable[[], None] = lambda: None
) -> TrainCounts:
    """Count the training split, with the co-occurrences of `queries` (A,), sorted rows.

    Costs one pass over all training shards, 16 bytes per concept of the vocabulary and, at the
    peak, about 75 bytes per pair of a query and a co-occurring concept. Other pairs, of which a
    large set has hundreds of millions, are not counted. `progress` is called after each shard.
    """
    size = sum(source.settings.entities.sizes)
    mentions, documents = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    total, num_documents = Pairs(), 0
    for shard in source.shard_set.shards("train"):
        members = source.read(shard, 0)
        rows = concept_rows(source.settings.entities, members.mentions)
        known = rows >= 0
        mentions += np.bincount(rows[known], minlength=size)
        pairs = np.unique(owners(members)[known] * size + rows[known])
        owner, rows = np.divmod(pairs, max(size, 1))
        documents += np.bincount(rows, minlength=size)
        total.add(_keys(owner, rows, queries, size))
        num_documents += len(members)
        progress()
    return TrainCounts(num_documents, mentions, documents, queries, *total.sums())


def concept_rows(entities: EntityVocabulary, mentions: np.ndarray) -> np.ndarray:
    """(m,) vocabulary row of each mention's concept, -1 if it has none in the vocabulary."""
    ids = entities.ids_of(mentions)
    return np.where(ids < 0, -1, entities.firsts[mentions["type"]] + ids)


def owners(members: Examples) -> np.ndarray:
    """(m,) index of the example of each mention."""
    return np.repeat(np.arange(len(members)), np.diff(members.mention_starts))


class Pairs:
    """Counter of int64 keys. New keys are buffered until they outnumber the merged ones, so that
    adding many shards costs no more than sorting all keys a few times."""

    def __init__(self) -> None:
        self._keys = [np.zeros(0, dtype=np.int64)]
        self._counts = [np.zeros(0, dtype=np.int64)]

    def add(self, keys: np.ndarray) -> None:
        """Add keys, repeated ones as often as they occur."""
        found, counts = np.unique(keys, return_counts=True)
        self._keys.append(found)
        self._counts.append(counts)
        if sum(map(len, self._keys[1:])) > len(self._keys[0]):
            self.sums()

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Merge: (P,) sorted keys and (P,) how often each was added."""
        keys, places = np.unique(np.concatenate(self._keys), return_inverse=True)
        counts = np.zeros(len(keys), dtype=np.int64)
        np.add.at(counts, places, np.concatenate(self._counts))
        self._keys, self._counts = [keys], [counts]
        return keys, counts


def _keys(owner: np.ndarray, rows: np.ndarray, queries: np.ndarray, size: int) -> np.ndarray:
    """Keys of all pairs of a query and a concept of the same document, itself included.

    `owner` (p,) and `rows` (p,) are the distinct (document, concept) pairs, sorted.
    """
    if not len(queries):
        return np.zeros(0, dtype=np.int64)
    place = np.minimum(np.searchsorted(queries, rows), len(queries) - 1)
    hits = np.flatnonzero(queries[place] == rows)
    first = np.searchsorted(owner, owner[hits], side="left")
    lengths = np.searchsorted(owner, owner[hits], side="right") - first
    of_hit = np.repeat(np.arange(len(hits)), lengths)
    return place[hits][of_hit] * size + rows[first[of_hit] + within(lengths)]
