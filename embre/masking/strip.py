"""What an objective is given and what it returns: a strip before and after masking."""

from dataclasses import dataclass

import numpy as np

from embre.end_to_end import within


@dataclass(frozen=True, slots=True)
class Strip:
    """Documents end to end, before masking; n tokens, m mention rows.

    `tokens` (n,) ids with [CLS] and [SEP]; `token_keys` (n,) what a token's draws depend on;
    `maskable` (n,) false at special tokens; `mentions` (m,) of MENTION_ROW, spans in the strip;
    `mention_keys` (m,) what a mention's draws depend on: equal for mentions that hide together.
    """

    tokens: np.ndarray
    token_keys: np.ndarray
    maskable: np.ndarray
    mentions: np.ndarray
    mention_keys: np.ndarray


@dataclass(frozen=True, slots=True)
class Masked:
    """The strip as the model sees it, and what it has to find.

    `tokens` (n,); `token_targets` (n,) true where the token head is asked for the original;
    `mention_targets` (m,) true where the entity head is asked for type and identifier.
    """

    tokens: np.ndarray
    token_targets: np.ndarray
    mention_targets: np.ndarray


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What masking needs of a tokenizer: the mask token, how many tokens there are to draw, and
    which of them are special and never drawn."""

    mask: int
    size: int
    special: tuple[int, ...]


def spots_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places that mentions cover, one mention after the other, and which of them covers each.

    Both (n,); a place that several cover is there as often.
    """
    lengths = (rows["end"] - rows["start"]).astype(np.int64)
    owner = np.repeat(np.arange(len(rows)), lengths)
    return rows["start"].astype(np.int64)[owner] + within(lengths), owner
