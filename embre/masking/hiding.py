"""How chosen tokens are hidden: most become [MASK], some another token, some stay."""

import numpy as np

from embre.config import MaskingConfig
from embre.masking.draws import uniform
from embre.masking.strip import Vocabulary

TREAT, REPLACEMENT = range(2)  # purposes of draws


def hide_tokens(
    tokens: np.ndarray,
    targets: np.ndarray,
    keys: np.ndarray,
    token_keys: np.ndarray,
    config: MaskingConfig,
    vocabulary: Vocabulary,
) -> np.ndarray:
    """(n,) tokens with the targets hidden.

    `keys` (n,) decide what happens to a target (tokens with one key share their fate),
    `token_keys` (n,) which token replaces it.
    """
    at = np.flatnonzero(targets)
    fate = uniform(keys[at], TREAT)
    masked = at[fate >= config.replace_share + config.keep_share]
    replaced = at[fate < config.replace_share]
    other = (uniform(token_keys[replaced], REPLACEMENT) * vocabulary.size).astype(tokens.dtype)
    for special in vocabulary.special:  # the few draws that hit one: text never holds it
        other[other == special] = vocabulary.mask
    hidden = tokens.copy()
    hidden[masked] = vocabulary.mask
    hidden[replaced] = other
    return hidden
