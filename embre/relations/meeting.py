"""Where two concepts of a document come nearest to each other."""

from dataclasses import dataclass

from embre.document import Concept, Document
from embre.relations.sentences import sentence_of, sentence_starts, sentence_text

Pair = tuple[Concept, Concept]


@dataclass(frozen=True, slots=True)
class Place:
    """The nearest mentions of two concepts.

    `sentences` lie from one to the other, 0 where they share one; None where one of them has no
    mention. `shared` is the number of sentences that mention both, `mentions` that of the concept
    that is mentioned less. `first` and `last` say how far into the document, from 0 to 1, the first
    and the last of the shared sentences stand, or the two that come nearest.
    """

    sentences: int | None
    shared: int
    mentions: int
    first: float
    last: float


class Places:
    """Where pairs of one document meet."""

    def __init__(self, doc: Document):
        self._doc = doc
        self._starts = sentence_starts(doc)
        mentions = doc.mentions_by_concept()
        self._times = {concept: len(some) for concept, some in mentions.items()}
        self._sentences = {
            concept: {sentence_of(self._starts, mention.start) for mention in some}
            for concept, some in mentions.items()
        }

    def of(self, pair: Pair) -> Place:
        """Without a mention of both there is no place."""
        fewest = min(self._times.get(concept, 0) for concept in pair)
        if not fewest:
            return Place(None, 0, 0, 0.0, 0.0)
        one, other = (self._sentences[concept] for concept in pair)
        shared = one & other
        met = shared or {*self._nearest(pair)}
        low, high, end = min(met), max(met), max(len(self._starts) - 1, 1)
        apart = 0 if shared else high - low
        return Place(apart, len(shared), fewest, low / end, high / end)

    def text(self, pair: Pair) -> str:
        """The sentence in which two concepts meet first, or the two that are nearest."""
        if not all(concept in self._sentences for concept in pair):
            return ""
        a, b = self._nearest(pair)
        shown = [sentence_text(self._doc, self._starts, number) for number in sorted({a, b})]
        return (" " if abs(a - b) == 1 else " … ").join(shown)

    def _nearest(self, pair: Pair) -> tuple[int, int]:
        """A sentence of each concept, as near as they come; the first where several are."""
        one, other = (self._sentences[concept] for concept in pair)
        return min(((a, b) for a in one for b in other), key=lambda ab: (abs(ab[0] - ab[1]), ab))
