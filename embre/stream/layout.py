"""Examples laid end to end, by the settings of a run's micro-batches."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from embre.config import MaskingConfig
from embre.masking import OBJECTIVES, Masked, Strip, Vocabulary
from embre.masking.draws import combine
from embre.masking.mention_keys import mention_keys
from embre.shards.entities import EntityVocabulary
from embre.stream.examples import Examples
from embre.tokenization.tokenizer import SpecialTokens, TextTokenizer

NUM_SPECIAL = 2  # [CLS] and [SEP] around every example


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """All that makes a micro-batch of examples: how long a strip and its longest document are, what
    is hidden, the concepts that have an id, and of a tokenizer the special tokens and those that
    masking draws from."""

    strip_tokens: int
    max_document_tokens: int
    masking: MaskingConfig
    entities: EntityVocabulary
    special: SpecialTokens
    vocabulary: Vocabulary

    @classmethod
    def of(
        cls,
        tokenizer: TextTokenizer,
        *,
        strip_tokens: int,
        max_document_tokens: int,
        masking: MaskingConfig,
        entities: EntityVocabulary,
    ) -> Self:
        special = tokenizer.special
        return cls(
            strip_tokens=strip_tokens,
            max_document_tokens=max_document_tokens,
            masking=masking,
            entities=entities,
            special=special,
            vocabulary=Vocabulary(special.mask, tokenizer.vocabulary, special),
        )

    def hide(self, strip: Strip) -> Masked:
        """The strip as the model sees it, and what it is asked for."""
        return OBJECTIVES[self.masking.objective](strip, self.masking, self.vocabulary)


def lay(settings: BatchSettings, members: Examples) -> tuple[Strip, np.ndarray, np.ndarray]:
    """[CLS] document [SEP] after one another: the strip, boundaries (D + 1,), positions (n,)."""
    boundaries = members.token_starts + NUM_SPECIAL * np.arange(len(members) + 1)
    size, lengths = boundaries[-1], np.diff(boundaries)
    positions = np.arange(size) - np.repeat(boundaries[:-1], lengths)
    tokens, maskable = np.empty(size, dtype=np.int64), np.ones(size, dtype=bool)
    maskable[boundaries[:-1]] = maskable[boundaries[1:] - 1] = False
    tokens[maskable] = members.tokens
    tokens[boundaries[:-1]] = settings.special.first
    tokens[boundaries[1:] - 1] = settings.special.last
    places = positions + np.repeat(members.offsets, lengths)
    token_keys = combine(np.repeat(members.keys, lengths), places)
    rows, per_document = members.mentions.copy(), np.diff(members.mention_starts)
    shift = np.repeat(boundaries[:-1] + 1, per_document).astype(rows["start"].dtype)
    rows["start"] += shift
    rows["end"] += shift
    row_keys = np.repeat(members.keys, per_document)
    keys = mention_keys(rows, tokens, token_keys, row_keys, settings.masking.unit)
    return Strip(tokens, token_keys, maskable, rows, keys), boundaries, positions


def with_padding(boundaries: np.ndarray, settings: BatchSettings) -> np.ndarray:
    """(B + 1,) int32: boundaries of documents, and of the padding behind them as further ones.

    So attention covers the whole strip, and nobody has to ask the device where the documents end.
    In pieces, because attention is quadratic in a document.
    """
    size, piece = settings.strip_tokens, settings.max_document_tokens
    inner = np.arange(boundaries[-1] + piece, size, step=piece)
    end = [size] if boundaries[-1] < size else []
    return np.concatenate([boundaries, inner, end]).astype(np.int32)
