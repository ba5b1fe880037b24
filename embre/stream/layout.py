"""A strip: examples end to end, with what is to be hidden in it and how it is padded."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from embre.config import MaskingConfig
from embre.masking import OBJECTIVES, Masked, Strip, Vocabulary
from embre.masking.draws import combine
from embre.masking.mention_keys import mention_keys
from embre.shards.entities import EntityVocabulary
from embre.stream.examples import Examples
from embre.tokenization.tokenizer import TextTokenizer

SPECIALS = ("pad", "unknown", "first", "last", "mask")
NUM_SPECIAL = 2  # [CLS] and [SEP] around every example


@dataclass(frozen=True, slots=True)
class Layout:
    """All that makes a micro-batch of examples: how long a strip and its longest document are, what
    is hidden, the concepts that have an id, and of a tokenizer its size and special tokens."""

    strip_tokens: int
    max_document_tokens: int
    masking: MaskingConfig
    entities: EntityVocabulary
    special: dict[str, int]
    vocabulary_size: int

    @classmethod
    def of(
        cls,
        strip_tokens: int,
        max_document_tokens: int,
        masking: MaskingConfig,
        entities: EntityVocabulary,
        tokenizer: TextTokenizer,
    ) -> Self:
        special = {name: getattr(tokenizer, name) for name in SPECIALS}
        sizes = (strip_tokens, max_document_tokens)
        return cls(*sizes, masking, entities, special, tokenizer.vocabulary)

    def drawn(self) -> Vocabulary:
        """The tokens that masking draws from."""
        return Vocabulary(self.special["mask"], self.vocabulary_size, tuple(self.special.values()))

    def hide(self, strip: Strip) -> Masked:
        """The strip as the model sees it, and what it is asked for."""
        return OBJECTIVES[self.masking.objective](strip, self.masking, self.drawn())


def lay(layout: Layout, members: Examples) -> tuple[Strip, np.ndarray, np.ndarray]:
    """[CLS] document [SEP] after one another: the strip, boundaries (D + 1,), positions (n,)."""
    boundaries = members.token_starts + NUM_SPECIAL * np.arange(len(members) + 1)
    size, lengths = boundaries[-1], np.diff(boundaries)
    positions = np.arange(size) - np.repeat(boundaries[:-1], lengths)
    tokens, maskable = np.empty(size, dtype=np.int64), np.ones(size, dtype=bool)
    maskable[boundaries[:-1]] = maskable[boundaries[1:] - 1] = False
    tokens[maskable] = members.tokens
    tokens[boundaries[:-1]] = layout.special["first"]
    tokens[boundaries[1:] - 1] = layout.special["last"]
    places = positions + np.repeat(members.offsets, lengths)
    token_keys = combine(np.repeat(members.keys, lengths), places)
    rows, per_document = members.mentions.copy(), np.diff(members.mention_starts)
    shift = np.repeat(boundaries[:-1] + 1, per_document).astype(rows["start"].dtype)
    rows["start"] += shift
    rows["end"] += shift
    row_keys = np.repeat(members.keys, per_document)
    keys = mention_keys(rows, tokens, token_keys, row_keys, layout.masking.unit)
    return Strip(tokens, token_keys, maskable, rows, keys), boundaries, positions


def with_padding(boundaries: np.ndarray, layout: Layout) -> np.ndarray:
    """(B + 1,) int32: boundaries of documents, and of the padding behind them as further ones.

    So attention covers the whole strip, and nobody has to ask the device where the documents end.
    In pieces, because attention is quadratic in a document.
    """
    inner = np.arange(
        boundaries[-1] + layout.max_document_tokens,
        layout.strip_tokens,
        step=layout.max_document_tokens,
    )
    end = [layout.strip_tokens] if boundaries[-1] < layout.strip_tokens else []
    return np.concatenate([boundaries, inner, end]).astype(np.int32)
