"""Random keys of mentions: mentions with the same key are hidden together.

Shapes: n tokens of a strip, m mention rows.
"""

from typing import Literal

import numpy as np

from embre.masking.draws import combine, mix
from embre.masking.strip import positions_of


def mention_keys(
    rows: np.ndarray,
    tokens: np.ndarray,
    token_keys: np.ndarray,
    document_keys: np.ndarray,
    unit: Literal["concept", "mention"],
) -> np.ndarray:
    """(m,) keys of mention rows; `document_keys` (m,) are the keys of the rows' documents.

    With unit `concept`, all mentions of a concept in a document share a key, as do mentions without
    a concept that have the same name. With `mention`, the key is that of the first token, the same
    for all rows of a mention.
    """
    if unit == "mention":
        return mix(token_keys[rows["start"]])
    concepts = rows["concept"].copy()
    unnormalised = concepts == 0
    concepts[unnormalised] = name_hashes(tokens, rows[unnormalised])
    return combine(document_keys, concepts)


def name_hashes(tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(m,) 64-bit hashes of mentions, equal for equal word pieces."""
    positions, owner = positions_of(rows)
    hashes = np.zeros(len(rows), dtype=np.uint64)
    within = positions - rows["start"][owner]
    np.add.at(hashes, owner, combine(tokens[positions].astype(np.uint64), within))
    return hashes
