"""What counting alone says of a hidden concept: how often it is mentioned, and beside which others.

    training split ─count─▶ TrainCounts ─naive_bayes_scores─▶ a score for each concept of a type

Concepts are numbered by their rows in the vocabulary, V of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from embre.end_to_end import within
from embre.shards.entities import EntityVocabulary
from embre.stream.examples import Examples
from embre.stream.source import StreamSource

# Documents of average company added to each concept's own. Of 0.001 to 3000 the one with the best
# MRR on the validation split of a set of gold corpora: the baseline is not to lose by its setting.
SMOOTHING = 100.0


@dataclass(frozen=True, slots=True)
class TrainCounts:
    """Counts of the training split, a document being what the encoder reads at once.

    (V,) `mentions` of each concept and `documents` that mention it, out of `num_documents`. Of the
    concepts `asked` (A,), sorted, `keys` (P,) has place · V + row for each row that is in a
    document with it, sorted, and `together` (P,) the number of these documents.
    """

    num_documents: int
    mentions: np.ndarray
    documents: np.ndarray
    asked: np.ndarray
    keys: np.ndarray
    together: np.ndarray

    def company(self, concept: int) -> tuple[np.ndarray, np.ndarray]:
        """The concepts that share a document with an asked one, itself too, and how many."""
        place, size = int(np.searchsorted(self.asked, concept)), len(self.documents)
        part = slice(*np.searchsorted(self.keys, [place * size, (place + 1) * size]))
        return self.keys[part] - place * size, self.together[part]

    def by_frequency(self, rows: slice) -> np.ndarray:
        """(r,) a score that orders concepts by their mentions."""
        return self.mentions[rows].astype(np.float64)

    def naive_bayes_scores(self, rows: slice, visible: Iterable[int]) -> np.ndarray:
        """(r,) a score that orders concepts by the visible ones of a document: naive Bayes.

        log P(c) + Σ log P(v | c) over the visible v, where P(c) goes with the mentions of c plus
        one and P(v | c) = (n(c, v) + μ n(v) / N) / (n(c) + μ), with the numbers n of documents: the
        Dirichlet smoothing of Zhai & Lafferty (ACM TOIS, 2004), so that a concept that was rarely
        seen is expected in average company. What is the same for every c is left out. A visible
        concept that training never saw says nothing; with none this is the order by mentions.
        """
        scores = np.log(self.mentions[rows] + 1.0)
        seen = [concept for concept in visible if self.documents[concept]]
        scores -= len(seen) * np.log(self.documents[rows] + SMOOTHING)
        for concept in seen:
            others, together = self.company(concept)
            inside = slice(*np.searchsorted(others, [rows.start, rows.stop]))
            expected = SMOOTHING * self.documents[concept] / self.num_documents
            scores[others[inside] - rows.start] += np.log1p(together[inside] / expected)
        return scores


def count(
    source: StreamSource, asked: np.ndarray, progress: Callable[[], None] = lambda: None
) -> TrainCounts:
    """Count the training split, and the co_occurring of the concepts `asked`, sorted.

    Costs one pass over all training shards, 16 bytes for each concept of the vocabulary and, while
    they are added up, some 75 for each pair of an asked concept and one that is ever beside it.
    Pairs of other concepts, of which a large set has hundreds of millions, are not counted.
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
        total.add(_keys(owner, rows, asked, size))
        num_documents += len(members)
        progress()
    return TrainCounts(num_documents, mentions, documents, asked, *total.sums())


def concept_rows(entities: EntityVocabulary, mentions: np.ndarray) -> np.ndarray:
    """(m,) the row of each mention's concept in the vocabulary, -1 outside it or without."""
    ids = entities.ids_of(mentions)
    return np.where(ids < 0, -1, entities.firsts[mentions["type"]] + ids)


def owners(members: Examples) -> np.ndarray:
    """(m,) the example that each mention is in."""
    return np.repeat(np.arange(len(members)), np.diff(members.mention_starts))


class Pairs:
    """A growing count of keys. New ones wait until they are as many as the old ones, so that adding
    many shards costs no more than sorting all keys a few times."""

    def __init__(self) -> None:
        self._keys = [np.zeros(0, dtype=np.int64)]
        self._counts = [np.zeros(0, dtype=np.int64)]

    def add(self, keys: np.ndarray) -> None:
        """Count keys that may repeat."""
        found, counts = np.unique(keys, return_counts=True)
        self._keys.append(found)
        self._counts.append(counts)
        if sum(map(len, self._keys[1:])) > len(self._keys[0]):
            self.sums()

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """(P,) the keys, sorted, and how often each was added."""
        keys, places = np.unique(np.concatenate(self._keys), return_inverse=True)
        counts = np.zeros(len(keys), dtype=np.int64)
        np.add.at(counts, places, np.concatenate(self._counts))
        self._keys, self._counts = [keys], [counts]
        return keys, counts


def _keys(owner: np.ndarray, rows: np.ndarray, asked: np.ndarray, size: int) -> np.ndarray:
    """The key of each pair of an asked concept and one of the same document, itself too; `owner`
    (p,) and `rows` (p,) are the concepts of each document, sorted."""
    if not len(asked):
        return np.zeros(0, dtype=np.int64)
    place = np.minimum(np.searchsorted(asked, rows), len(asked) - 1)
    hits = np.flatnonzero(asked[place] == rows)
    first = np.searchsorted(owner, owner[hits], side="left")
    lengths = np.searchsorted(owner, owner[hits], side="right") - first
    of_hit = np.repeat(np.arange(len(hits)), lengths)
    return place[hits][of_hit] * size + rows[first[of_hit] + within(lengths)]
