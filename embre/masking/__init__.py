"""Masking objectives, one per file: a strip of documents → model inputs and targets.

A new objective is a file with `hide(strip, config, vocabulary) -> Masked`, one line here and its
name in `config.MaskingConfig`.
"""

from embre.masking import entity, entity_token, token
from embre.masking.strip import Masked, Strip, Vocabulary

OBJECTIVES = {
    "entity": entity.hide,
    "token": token.hide,
    "entity_token": entity_token.hide,
}

__all__ = ["OBJECTIVES", "Masked", "Strip", "Vocabulary"]
