"""How chosen tokens are hidden: most become [MASK], some another token, some stay."""

import numpy as np

from embre.config import MaskingConfig
from embre.masking.draws import uniform
from embre.masking.strip import Vocabulary

CHOOSE_TOKEN, CHOOSE_MENTION, TREAT, REPLACEMENT = range(4)


def hide_tokens(
    tokens: np.ndarray,
    chosen: np.ndarray,
    keys: np.ndarray,
    token_keys: np.ndarray,
    config: MaskingConfig,
    vocabulary: Vocabulary,
) -> np.ndarray:
    """(n,) tokens with the chosen ones hidden.

    `keys` (n,) decide what happens to a chosen token (tokens with one key share their fate),
    `token_keys` (n,) which token replaces it.
    """
    at = np.flatnonzero(chosen)
    fate = uniform(keys[at], TREAT)
    replaced = fate < config.replace_share
    kept = ~replaced & (fate < config.replace_share + config.keep_share)
    other = (uniform(token_keys[at], REPLACEMENT) * vocabulary.size).astype(tokens.dtype)
    # The few draws that hit a special token are masked instead: text never holds one.
    other[np.isin(other, vocabulary.special)] = vocabulary.mask
    hidden = tokens.copy()
    hidden[at] = np.where(replaced, other, np.where(kept, tokens[at], vocabulary.mask))
    return hidden
