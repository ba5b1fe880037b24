"""Objective `token`: ordinary masked-language modelling, the baseline to compare with.

Devlin et al. 2019: 15 % of tokens are chosen; of these 80 % become [MASK], 10 % another token,
10 % stay as they are.
"""

import numpy as np

from embre.config import MaskingConfig
from embre.masking.draws import uniform
from embre.masking.hiding import CHOOSE_TOKEN, hide_tokens
from embre.masking.strip import Masked, Strip, Vocabulary


def hide(strip: Strip, config: MaskingConfig, vocabulary: Vocabulary) -> Masked:
    """Hide single tokens at `config.token_rate`; the token head finds them again."""
    chosen = strip.maskable & (uniform(strip.token_keys, CHOOSE_TOKEN) < config.token_rate)
    return Masked(
        tokens=hide_tokens(
            strip.tokens, chosen, strip.token_keys, strip.token_keys, config, vocabulary
        ),
        token_targets=chosen,
        mention_targets=np.zeros(len(strip.mentions), dtype=bool),
    )
