"""Locations of concept pairs in a document: where their mentions are nearest."""

from typing import NamedTuple

from embre.document import Concept, Document
from embre.relations.sentences import sentence_of, sentence_starts, sentence_text

Pair = tuple[Concept, Concept]


class PairLocation(NamedTuple):
    """The nearest mentions of two concepts.

    `sentences` is the distance in sentences, 0 within one, None if a concept has no mention.
    `shared` is the number of sentences that mention both, `mentions` the number of mentions of the
    rarer concept. `first` and `last` are the relative positions, from 0 to 1, of the first and last
    shared sentence, or of the two nearest sentences.
    """

    sentences: int | None
    shared: int
    mentions: int
    first: float
    last: float


class PairLocator:
    """Locates the concept pairs of one document."""

    def __init__(self, doc: Document):
        self._doc = doc
        self._starts = sentence_starts(doc)
        mentions = doc.mentions_by_concept()
        self._times = {concept: len(some) for concept, some in mentions.items()}
        self._sentences = {
            concept: {sentence_of(self._starts, mention.start) for mention in some}
            for concept, some in mentions.items()
        }
        # As bit sets: the shared sentences of a pair are one operation, for thousands of pairs.
        self._bits = {
            concept: sum(1 << number for number in some)
            for concept, some in self._sentences.items()
        }

    def locate(self, pair: Pair) -> PairLocation:
        """The location of a pair; without `sentences` unless both concepts are mentioned."""
        one, other = pair
        fewest = min(self._times.get(one, 0), self._times.get(other, 0))
        if not fewest:
            return PairLocation(None, 0, 0, 0.0, 0.0)
        end = max(len(self._starts) - 1, 1)
        if shared := self._bits[one] & self._bits[other]:
            low, high = (shared & -shared).bit_length() - 1, shared.bit_length() - 1
            return PairLocation(0, shared.bit_count(), fewest, low / end, high / end)
        low, high = sorted(self._nearest(pair))
        return PairLocation(high - low, 0, fewest, low / end, high / end)

    def text(self, pair: Pair) -> str:
        """The first sentence that mentions both concepts, or else the two nearest; '' without."""
        if not all(concept in self._sentences for concept in pair):
            return ""
        a, b = self._nearest(pair)
        shown = [sentence_text(self._doc, self._starts, number) for number in sorted({a, b})]
        return (" " if abs(a - b) == 1 else " … ").join(shown)

    def _nearest(self, pair: Pair) -> tuple[int, int]:
        """The nearest sentences of the two concepts, the first if several are equally near."""
        one, other = (self._sentences[concept] for concept in pair)
        _, a, b = min((abs(a - b), a, b) for a in one for b in other)
        return a, b
