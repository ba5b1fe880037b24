"""Objective `entity_token`, the default: hide whole mentions, and single tokens elsewhere.

The entity head identifies each hidden mention; the token head recovers its word pieces too (the
other reading of "identify the masked entity") and ordinary tokens as in `token`.
"""

import numpy as np

from embre.config import MaskingConfig
from embre.masking.draws import uniform
from embre.masking.entity import spread
from embre.masking.hiding import CHOOSE_MENTION, CHOOSE_TOKEN, hide_tokens
from embre.masking.strip import Masked, Strip, Vocabulary


def hide(strip: Strip, config: MaskingConfig, vocabulary: Vocabulary) -> Masked:
    """Hide mentions at `config.entity_rate` and other tokens at `config.token_rate`."""
    hidden = uniform(strip.mention_keys, CHOOSE_MENTION) < config.entity_rate
    covered, keys = spread(strip, hidden)
    single = strip.maskable & (uniform(strip.token_keys, CHOOSE_TOKEN) < config.token_rate)
    chosen = np.where(covered, True, single)
    return Masked(
        tokens=hide_tokens(strip.tokens, chosen, keys, strip.token_keys, config, vocabulary),
        token_targets=chosen,
        mention_targets=hidden,
    )
