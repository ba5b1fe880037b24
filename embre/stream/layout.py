"""Lay examples end to end in a strip, by the micro-batch settings of a run."""

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
    """Settings that turn examples into a micro-batch.

    The lengths are in tokens; those of a document include [CLS] and [SEP]. `special` are the
    tokenizer's special tokens, `vocabulary` is what masking draws replacements from.
    """

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
        """Settings for a tokenizer, which provides special tokens and vocabulary."""
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
        """Mask a strip: the model's input and its targets."""
        return OBJECTIVES[self.masking.objective](strip, self.masking, self.vocabulary)


def lay(settings: BatchSettings, members: Examples) -> tuple[Strip, np.ndarray, np.ndarray]:
    """Lay out [CLS] document [SEP] …; returns the strip, cu_seqlens (D + 1,), position_ids (n,)."""
    cu_seqlens = members.token_starts + NUM_SPECIAL * np.arange(len(members) + 1)
    size, lengths = cu_seqlens[-1], np.diff(cu_seqlens)
    position_ids = np.arange(size) - np.repeat(cu_seqlens[:-1], lengths)
    tokens, maskable = np.empty(size, dtype=np.int64), np.ones(size, dtype=bool)
    maskable[cu_seqlens[:-1]] = maskable[cu_seqlens[1:] - 1] = False
    tokens[maskable] = members.tokens
    tokens[cu_seqlens[:-1]] = settings.special.cls
    tokens[cu_seqlens[1:] - 1] = settings.special.sep
    places = position_ids + np.repeat(members.offsets, lengths)
    token_keys = combine(np.repeat(members.keys, lengths), places)
    rows, per_document = members.mentions.copy(), np.diff(members.mention_starts)
    shift = np.repeat(cu_seqlens[:-1] + 1, per_document).astype(rows["start"].dtype)
    rows["start"] += shift
    rows["end"] += shift
    row_keys = np.repeat(members.keys, per_document)
    keys = mention_keys(rows, tokens, token_keys, row_keys, settings.masking.unit)
    return Strip(tokens, token_keys, maskable, rows, keys), cu_seqlens, position_ids


def with_padding(cu_seqlens: np.ndarray, settings: BatchSettings) -> np.ndarray:
    """(B + 1,) int32: cu_seqlens of the documents and of the padding, as further sequences.

    Attention then covers the whole strip, and no device synchronization is needed to find the end
    of the documents. The padding is in pieces because attention is quadratic in a sequence.
    """
    size, piece = settings.strip_tokens, settings.max_document_tokens
    inner = np.arange(cu_seqlens[-1] + piece, size, step=piece)
    end = [size] if cu_seqlens[-1] < size else []
    return np.concatenate([cu_seqlens, inner, end]).astype(np.int32)
