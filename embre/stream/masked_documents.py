"""The documents of a pretraining run before and after masking, one by one, for people to read."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from embre.masking.entity import spread
from embre.stream.layout import lay
from embre.stream.order import rounds, strips
from embre.stream.source import StreamSource, StreamState


@dataclass(frozen=True, slots=True)
class MaskedDocument:
    """A document before and after masking, or a piece of a long one that begins at `offset`.

    (n,) without [CLS] and [SEP]: `before` and `after` token ids, `asked` true where the token head
    is, `covered` true in a hidden mention. (m,) `mentions` of MENTION_ROW, spans counted from the
    first of these tokens, `targets` true where the entity head is asked, `identifiers` within their
    type, -1 where it is asked for the type only.
    """

    doc_id: str
    offset: int
    before: np.ndarray
    after: np.ndarray
    asked: np.ndarray
    covered: np.ndarray
    mentions: np.ndarray
    targets: np.ndarray
    identifiers: np.ndarray

    @property
    def hidden(self) -> np.ndarray:
        """(n,) the tokens that were chosen, some of which are left as they were."""
        return self.asked | self.covered

    @property
    def spans(self) -> dict[tuple[int, int, int], bool]:
        """Start, end and type of each mention, outer ones first, and whether it is hidden."""
        rows = self.mentions[["start", "end", "type"]].tolist()
        hidden = {row for row, target in zip(rows, self.targets, strict=True) if target}
        return {row: row in hidden for row in sorted(set(rows), key=lambda row: (row[0], -row[1]))}


def masked_documents(source: StreamSource, stream: int, epoch: int) -> Iterator[MaskedDocument]:
    """The documents of a stream in an epoch, in their order, masked as training masks them."""
    found = takewhile(
        lambda here: here[1].epoch == epoch, rounds(source, stream, StreamState(epoch))
    )
    for members, _ in strips(found, source.settings.strip_tokens):
        strip, boundaries, _ = lay(source.settings, members)
        masked = source.settings.hide(strip)
        covered, _ = spread(strip, masked.mention_targets)
        identifiers = source.settings.entities.ids_of(strip.mentions)
        for number, doc_id in enumerate(members.doc_ids):
            tokens = slice(boundaries[number] + 1, boundaries[number + 1] - 1)
            rows = slice(*members.mention_starts[number : number + 2])
            yield MaskedDocument(
                doc_id,
                int(members.offsets[number]),
                strip.tokens[tokens],
                masked.tokens[tokens],
                masked.token_targets[tokens],
                covered[tokens],
                members.mentions[rows],
                masked.mention_targets[rows],
                identifiers[rows],
            )
