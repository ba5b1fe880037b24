"""What the encoder reads for some pairs, as numbers, and the codes in it.

Shapes: n tokens, K mentions of concepts, P pairs, L labels.
"""

from dataclasses import dataclass

import numpy as np

from embre.document import Concept
from embre.relations.markers import Window

UNLABELLED = -100  # the label that torch's cross-entropy leaves out
NUM_SPECIAL = 2  # [CLS] and [SEP] around every window
# Novelty labels. Where novelty is learnt of all pairs some are UNRELATED, and some are RELATED but
# nobody knows whether that is new.
UNRELATED, NOT_NOVEL, NOVEL, RELATED = range(4)
# So many concepts of a pass are told apart by entity-aware attention, those with most mentions
# first: the others are mentioned once or twice. A BioRED document has 10 in the mean.
NUM_SLOTS = 32
# How two concepts meet, as codes: how near they come, how often the rarer is mentioned, in which
# eighth of the document they meet first and last.
FARTHER, NEXT_SENTENCE, SAME_SENTENCE = range(3)
NUM_NEARNESS = 5  # two shared sentences have a code of their own, and three or more
NUM_TIMES = 5  # the last is of four mentions and more
NUM_EIGHTHS = 8
NUM_CODES = 4


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass as numbers.

    `doc_id` names the document; `tokens` (n,) are its ids with markers; `roles` (n, 2) are 0
    outside of mentions, within them 1 + entity type and 1 + the slot of the concept; `windows` are
    ranges of tokens; `mentions` (K, 3) say where a mention stands, from its start marker to behind
    its end marker, and which concept it is of; `pairs` (P, 2) are concepts, `locations` (P, 4)
    codes of how they meet: nearness, times, first and last eighth; `legal` (P, L) the labels a pair
    may have, `relation_labels` (P,) and `novelty_labels` (P,) those it has.
    """

    doc_id: str
    tokens: np.ndarray
    roles: np.ndarray
    windows: tuple[Window, ...]
    mentions: np.ndarray
    concepts: tuple[Concept, ...]
    pairs: np.ndarray
    locations: np.ndarray
    legal: np.ndarray
    relation_labels: np.ndarray
    novelty_labels: np.ndarray
