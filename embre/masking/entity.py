"""Objective `entity`: hide whole mentions and identify each hidden entity with its type.

Li & Verspoor (arXiv 2401.07877) mask whole named entities at random and let the model identify
them "along with" their types. Rate, unit and shares are not published: ours. With unit `concept`
(the default) a chosen concept is hidden at all its mentions in a document, because a concept has
2.9 mentions in a BioRED document and hiding one leaves the answer in sight. Mentions without a
concept are chosen by name.
"""

import numpy as np

from embre.config import MaskingConfig
from embre.masking.draws import bernoulli
from embre.masking.hiding import hide_tokens, treatment_draws
from embre.masking.strip import Masked, Strip, Vocabulary, positions_of


def hide(strip: Strip, config: MaskingConfig, vocabulary: Vocabulary) -> Masked:
    """Hide mentions at `config.entity_rate`; the entity head identifies them."""
    hidden = bernoulli(strip.mention_keys, config.entity_rate)
    covered, keys = covered_tokens(strip, hidden)
    return Masked(
        tokens=hide_tokens(strip.tokens, covered, keys, strip.token_keys, config, vocabulary),
        token_targets=np.zeros(len(strip.tokens), dtype=bool),
        mention_targets=hidden,
    )


def covered_tokens(strip: Strip, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which tokens hidden mentions cover and the key of every token, both (n,).

    A covered token has its mention's key, so a mention is masked, replaced or kept as a whole. If
    mentions overlap, shared tokens take the strongest treatment.
    """
    chosen = np.flatnonzero(hidden)
    # By ascending treatment: where mentions overlap, the last one written counts.
    chosen = chosen[np.argsort(treatment_draws(strip.mention_keys[chosen]))]
    positions, owner = positions_of(strip.mentions[chosen])
    covered = np.zeros(len(strip.tokens), dtype=bool)
    covered[positions] = True
    keys = strip.token_keys.copy()
    keys[positions] = strip.mention_keys[chosen][owner]
    return covered, keys
