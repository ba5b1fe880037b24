"""Hide chosen tokens: replace most by [MASK], some by another token, keep some."""

import numpy as np

from embre.config import MaskingConfig
from embre.masking.draws import uniform
from embre.masking.strip import Vocabulary

TREATMENT, REPLACEMENT = range(2)  # purposes of draws


def treatment_draws(keys: np.ndarray) -> np.ndarray:
    """(n,) numbers in [0, 1) that decide the treatment: the lowest are kept, the next replaced, the
    highest masked."""
    return uniform(keys, TREATMENT)


def hide_tokens(
    tokens: np.ndarray,
    targets: np.ndarray,
    keys: np.ndarray,
    token_keys: np.ndarray,
    config: MaskingConfig,
    vocabulary: Vocabulary,
) -> np.ndarray:
    """(n,) tokens with the targets hidden.

    `keys` (n,) decide the treatment of a target (equal keys, equal treatment), `token_keys` (n,)
    which token replaces it.
    """
    positions = np.flatnonzero(targets)
    draws = treatment_draws(keys[positions])
    mask_from = config.keep_share + config.replace_share
    masked = positions[draws >= mask_from]
    replaced = positions[(draws >= config.keep_share) & (draws < mask_from)]
    other = (uniform(token_keys[replaced], REPLACEMENT) * vocabulary.size).astype(tokens.dtype)
    for special in vocabulary.special:  # the few draws that hit one: text never holds it
        other[other == special] = vocabulary.mask
    hidden = tokens.copy()
    hidden[masked] = vocabulary.mask
    hidden[replaced] = other
    return hidden
