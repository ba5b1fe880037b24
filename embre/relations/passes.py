"""The pass: the encoder's input for some candidate pairs of a document, with their labels."""

from dataclasses import dataclass

import numpy as np

from embre.document import Concept
from embre.relations.markers import Window

NUM_SPECIAL = 2  # [CLS] and [SEP] around every window


@dataclass(frozen=True, slots=True)
class Pass:
    """A document, or a document with the mentions of one pair marked, as arrays.

    Shapes: n tokens, K mentions of concepts, P pairs, L labels. Ranges are half-open.

    - `tokens` (n,): token ids with markers, without [CLS] and [SEP]
    - `entity_codes` (n, 2): entity type and concept of each token, see `entity_attention`
    - `windows`: token ranges, each of which the encoder reads separately
    - `mentions` (K, 3): token range with both markers, and index in `concepts`
    - `pairs` (P, 2): indices in `concepts`
    - `locations` (P, 4): see `location_codes`
    - `legal` (P, L): which labels of the schema a pair may have
    - `relation_labels`, `novelty_labels` (P,): see `pair_labels`
    """

    doc_id: str
    tokens: np.ndarray
    entity_codes: np.ndarray
    windows: tuple[Window, ...]
    mentions: np.ndarray
    concepts: tuple[Concept, ...]
    pairs: np.ndarray
    locations: np.ndarray
    legal: np.ndarray
    relation_labels: np.ndarray
    novelty_labels: np.ndarray
