"""Objective `entity_token`, the default: hide whole mentions, and single tokens elsewhere.

The entity head identifies each hidden mention; the token head recovers its word pieces too (the
other reading of "identify the masked entity") and ordinary tokens as in `token`.
"""

from embre.config import MaskingConfig
from embre.masking.draws import bernoulli
from embre.masking.entity import covered_tokens
from embre.masking.hiding import hide_tokens
from embre.masking.strip import Masked, Strip, Vocabulary


def hide(strip: Strip, config: MaskingConfig, vocabulary: Vocabulary) -> Masked:
    """Hide mentions at `config.entity_rate` and other tokens at `config.token_rate`."""
    hidden = bernoulli(strip.mention_keys, config.entity_rate)
    covered, keys = covered_tokens(strip, hidden)
    targets = covered | strip.maskable & bernoulli(strip.token_keys, config.token_rate)
    return Masked(
        tokens=hide_tokens(strip.tokens, targets, keys, strip.token_keys, config, vocabulary),
        token_targets=targets,
        mention_targets=hidden,
    )
