"""What the encoder reads for some pairs, as numbers, and many of them as a micro-batch.

Shapes: T tokens of the strip, W windows in it, N tokens of the passes (those that windows share
counted once), K mentions of concepts, C concepts, P pairs, L labels.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embre.data_hash import data_hash
from embre.document import Concept
from embre.markers import Window

UNLABELLED = -100  # the label that torch's cross-entropy leaves out
NUM_SPECIAL = 2  # [CLS] and [SEP] around every window
# Novelty labels. UNRELATED is one only where novelty is learnt of all pairs.
UNRELATED, NOT_NOVEL, NOVEL = 0, 1, 2
# So many concepts of a pass are told apart by entity-aware attention, those with most mentions
# first: the others are mentioned once or twice. A BioRED document has 10 in the mean.
NUM_SLOTS = 32
# How near two concepts come, and how often the rarer of them is mentioned, as codes.
FARTHER, NEXT_SENTENCE, SAME_SENTENCE = range(3)
NUM_NEARNESS = 5  # two shared sentences have a code of their own, and three or more
NUM_TIMES = 5  # the last is of four mentions and more


class Grids(NamedTuple):
    """What belongs to each of D passes, side by side, and -1 where one has less than the largest.

    `tokens` (D, n) of the N tokens, `concepts` (D, c) of the C concepts, `pairs` (D, p, 2) two
    places each in the pass's row of concepts. `rows` (P,) is where each pair lies in D · p,
    `owners` (C,) the pass of each concept.
    """

    tokens: Tensor
    concepts: Tensor
    pairs: Tensor
    rows: Tensor
    owners: Tensor


class Candidate(NamedTuple):
    """A pair of a batch: which of its passes, and which two concepts."""

    member: int
    first: Concept
    second: Concept


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass as numbers.

    `doc_id` names the document; `tokens` (n,) are its ids with markers; `roles` (n, 2) are 0
    outside of mentions, within them 1 + entity type and 1 + the slot of the concept; `windows` are
    ranges of tokens; `mentions` (K, 2) say where a start marker stands and which concept it marks;
    `pairs` (P, 2) are concepts, `meetings` (P, 2) codes of how near they come and of how often the
    rarer is mentioned; `legal` (P, L) the labels a pair may have, `relations` (P,) and
    `novelties` (P,) those it has.
    """

    doc_id: str
    tokens: np.ndarray
    roles: np.ndarray
    windows: tuple[Window, ...]
    mentions: np.ndarray
    concepts: tuple[Concept, ...]
    pairs: np.ndarray
    meetings: np.ndarray
    legal: np.ndarray
    relations: np.ndarray
    novelties: np.ndarray


@dataclass(frozen=True, slots=True)
class PairBatch:
    """One micro-batch of fine-tuning: the windows of some passes end to end in a strip.

    `input_ids`, `positions` (T,); `roles` (T, 2) as in `Pass`; `boundaries` (W + 1,) where each
    window starts and the last ends; `longest` tokens of the longest. `reads` (T,) says which of
    the N tokens of passes each token of the strip is; [CLS] and [SEP] of a pass's windows are the
    same two. `mentions` (K, 2) are token of N and concept; `concept_types` (C,); `pairs` (P, 2)
    are concepts, `meetings` (P, 2) as in `Pass`; `legal` (P, L) the labels allowed.
    `relation_labels` (P,) has 0 for None, `novelty_labels` (P,) is UNRELATED, NOT_NOVEL or NOVEL;
    both UNLABELLED where nobody knows. `num_read` is N, `grids` are the passes' shares. `slot` is
    the place in the step (-1: empty), `doc_ids` what is in it.
    """

    input_ids: Tensor
    positions: Tensor
    roles: Tensor
    boundaries: Tensor
    longest: int
    reads: Tensor
    mentions: Tensor
    concept_types: Tensor
    pairs: Tensor
    meetings: Tensor
    legal: Tensor
    relation_labels: Tensor
    novelty_labels: Tensor
    num_read: int
    grids: Grids
    candidates: tuple[Candidate, ...]
    slot: int
    doc_ids: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Targets of each loss."""
        return {
            "relation": int((self.relation_labels != UNLABELLED).sum()),
            "type": int((self.relation_labels > 0).sum()),
            "novelty": int((self.novelty_labels != UNLABELLED).sum()),
        }

    @property
    def num_tokens(self) -> int:
        """Tokens of the strip; an empty micro-batch counts for none."""
        return len(self.input_ids) if self.slot >= 0 else 0

    @property
    def data_hash(self) -> int:
        """32 bits of tokens and labels, as they lie on the CPU."""
        labels = (self.relation_labels, self.novelty_labels)
        return data_hash(self.slot, (self.input_ids, self.boundaries, self.pairs, *labels))

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on a device."""
        if self.input_ids.device == device:
            return self
        values = {name: getattr(self, name) for name in self.__slots__}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        moved = {name: value.to(device, non_blocking=True) for name, value in tensors.items()}
        grids = Grids(*(grid.to(device, non_blocking=True) for grid in self.grids))
        return replace(self, grids=grids, **moved)
