"""Objective `token`: ordinary masked-language modelling, the baseline to compare with.

Devlin et al. 2019: 15 % of tokens are chosen; of these 80 % become [MASK], 10 % another token,
10 % stay as they are.
"""

import numpy as np

from embre.config import MaskingConfig
from embre.masking.draws import bernoulli
from embre.masking.hiding import hide_tokens
from embre.masking.strip import Masked, Strip, Vocabulary


def hide(strip: Strip, config: MaskingConfig, vocabulary: Vocabulary) -> Masked:
    """Hide single tokens at `config.token_rate`; the token head predicts them."""
    keys = strip.token_keys
    targets = strip.maskable & bernoulli(keys, config.token_rate)
    return Masked(
        tokens=hide_tokens(strip.tokens, targets, keys, keys, config, vocabulary),
        token_targets=targets,
        mention_targets=np.zeros(len(strip.mentions), dtype=bool),
    )
