"""Documents of a pretraining run before and after masking, for display."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from embre.masking.entity import covered_tokens
from embre.stream.layout import lay
from embre.stream.order import rounds, strips
from embre.stream.source import StreamSource, StreamState


@dataclass(frozen=True, slots=True)
class MaskedDocument:
    """A document before and after masking, or a piece of a long one that begins at `offset`.

    (n,) per token, without [CLS] and [SEP]: `before` and `after` token ids, `token_targets` true at
    targets of the token head, `covered` true in a hidden mention. (m,) per mention: `mentions` of
    MENTION_ROW, spans relative to these tokens, `targets` true for targets of the entity head,
    `identifiers` the id within the type, -1 outside the vocabulary (target of the type loss only).
    """

    doc_id: str
    offset: int
    before: np.ndarray
    after: np.ndarray
    token_targets: np.ndarray
    covered: np.ndarray
    mentions: np.ndarray
    targets: np.ndarray
    identifiers: np.ndarray

    @property
    def hidden(self) -> np.ndarray:
        """(n,) bool: tokens chosen for masking, including those left unchanged."""
        return self.token_targets | self.covered

    @property
    def spans(self) -> dict[tuple[int, int, int], bool]:
        """(start, end, type) of each mention, outer ones first → whether it is hidden."""
        rows = self.mentions[["start", "end", "type"]].tolist()
        hidden = {row for row, target in zip(rows, self.targets, strict=True) if target}
        return {row: row in hidden for row in sorted(set(rows), key=lambda row: (row[0], -row[1]))}


def masked_documents(source: StreamSource, stream: int, epoch: int) -> Iterator[MaskedDocument]:
    """Yield the documents of a stream in one epoch, in order, masked as in training."""
    examples = takewhile(
        lambda here: here[1].epoch == epoch, rounds(source, stream, StreamState(epoch))
    )
    for members, _ in strips(examples, source.settings.strip_tokens):
        strip, cu_seqlens, _ = lay(source.settings, members)
        masked = source.settings.hide(strip)
        covered, _ = covered_tokens(strip, masked.mention_targets)
        identifiers = source.settings.entities.ids_of(strip.mentions)
        for number, doc_id in enumerate(members.doc_ids):
            tokens = slice(cu_seqlens[number] + 1, cu_seqlens[number + 1] - 1)
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
