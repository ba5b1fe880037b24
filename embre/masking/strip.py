"""Inputs and outputs of masking objectives: a strip before and after masking."""

from dataclasses import dataclass

import numpy as np

from embre.end_to_end import within


@dataclass(frozen=True, slots=True)
class Strip:
    """Documents end to end, before masking; n tokens, m mention rows.

    `tokens` (n,) ids with [CLS] and [SEP]; `token_keys` (n,) random keys of tokens;
    `maskable` (n,) false at special tokens; `mentions` (m,) of MENTION_ROW, spans in the strip;
    `mention_keys` (m,) random keys of mentions, equal for mentions that are hidden together.
    """

    tokens: np.ndarray
    token_keys: np.ndarray
    maskable: np.ndarray
    mentions: np.ndarray
    mention_keys: np.ndarray


@dataclass(frozen=True, slots=True)
class Masked:
    """A masked strip and its targets.

    `tokens` (n,); `token_targets` (n,) true where the token head predicts the original token;
    `mention_targets` (m,) true where the entity head predicts type and identifier.
    """

    tokens: np.ndarray
    token_targets: np.ndarray
    mention_targets: np.ndarray


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The part of a tokenizer that masking needs: the id of [MASK], the vocabulary size, and the
    special ids, which are never drawn as replacements."""

    mask: int
    size: int
    special: tuple[int, ...]


def positions_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions that mentions cover, mention by mention, and the row of each.

    Both (num_covered,); a position covered by several mentions is repeated.
    """
    lengths = (rows["end"] - rows["start"]).astype(np.int64)
    owner = np.repeat(np.arange(len(rows)), lengths)
    return rows["start"].astype(np.int64)[owner] + within(lengths), owner
