"""Where two concepts of a document come nearest to each other."""

from dataclasses import dataclass

from embre.document import Concept, Document, Mention
from embre.sentences import sentence_of, sentence_starts, sentence_text

Pair = tuple[Concept, Concept]


@dataclass(frozen=True, slots=True)
class Place:
    """The nearest mentions of two concepts.

    `sentences` lie from one to the other, 0 where they share one; None where one of them has no
    mention. `mentions` is the number of mentions of the concept that has fewer.
    """

    sentences: int | None
    mentions: int
    text: str


class Places:
    """Where pairs meet; sentences of a document are found once."""

    def __init__(self) -> None:
        self._doc: Document | None = None
        self._starts: list[int] = []
        self._mentions: dict[Concept, list[Mention]] = {}

    def of(self, doc: Document, pair: Pair) -> Place:
        """Documents should come one after the other."""
        if doc is not self._doc:
            self._doc, self._starts = doc, sentence_starts(doc)
            self._mentions = doc.mentions_by_concept()
        first, second = (self._mentions.get(concept, []) for concept in pair)
        numbers = [
            sorted({sentence_of(self._starts, m.start) for m in ms}) for ms in (first, second)
        ]
        fewest = min(len(first), len(second))
        if not fewest:
            return Place(None, fewest, "")
        a, b = min(
            ((a, b) for a in numbers[0] for b in numbers[1]),
            key=lambda ab: (abs(ab[0] - ab[1]), ab),
        )
        shown = [sentence_text(doc, self._starts, number) for number in sorted({a, b})]
        return Place(abs(a - b), fewest, (" " if abs(a - b) == 1 else " … ").join(shown))
