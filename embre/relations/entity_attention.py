"""Entity-aware attention: biases on attention scores by entity type and concept of both tokens.

Each head of each layer adds to its scores a bias for the entity types of the two tokens, and one
for tokens of the same concept: the structural biases of SSAN (Xu et al. 2021, arXiv 2102.10249)
without their content terms. All are zero at first, so untrained biases change nothing.

A bias is a product of extra dimensions of query and key, so any attention kernel can compute it.
Shapes: T tokens, A heads, E head size, Y entity types (0: none), S concept slots, F = Y + S.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embre.document import Concept
from embre.entity_types import ENTITY_TYPES
from embre.model.strip_forward import Extend

NUM_TYPES = 1 + len(ENTITY_TYPES)
# Concepts of a pass that have a slot, that is, are told apart: those with most mentions. Others
# have one or two mentions. A BioRED document has 10 concepts on average.
NUM_SLOTS = 32
BIAS_SCALE = 50.0  # training moves a parameter by hundredths, and a bias has to move by ones
MULTIPLE = 8  # of head sizes that CUDA kernels support

CodedMention = tuple[int, int, int, Concept | None]  # start, end (exclusive), type, concept


def entity_codes(num_tokens: int, mentions: Sequence[CodedMention]) -> np.ndarray:
    """(num_tokens, 2) of each token: 1 + the type of its mention, 1 + the slot of its concept; 0
    for none. Where mentions overlap, the shortest counts, of equal ones one with a concept."""
    counts = Counter(concept for *_, concept in mentions if concept is not None)
    slots = {concept: slot for slot, (concept, _) in enumerate(counts.most_common(NUM_SLOTS), 1)}
    codes = np.zeros((num_tokens, 2), dtype=np.int64)
    for start, end, kind, concept in sorted(
        mentions, key=lambda mention: (mention[0] - mention[1], mention[3] is not None)
    ):
        codes[start:end] = kind + 1, 0 if concept is None else slots.get(concept, 0)
    return codes


class EntityAttention(nn.Module):
    """The biases of all layers, divided by BIAS_SCALE: `types` (layers, A, Y, Y) by the types of
    the query and the key token, `same` (layers, A) for two tokens of one concept."""

    def __init__(self, layers: int, heads: int):
        super().__init__()
        self.types = nn.Parameter(torch.zeros(layers, heads, NUM_TYPES, NUM_TYPES))
        self.same = nn.Parameter(torch.zeros(layers, heads))

    def extension(self, entity_codes_T2: Tensor) -> Extend:
        """The `Extend` function for a strip whose tokens have these codes."""
        types_TY = F.one_hot(entity_codes_T2[:, 0], NUM_TYPES)
        slots_TS = F.one_hot(entity_codes_T2[:, 1], 1 + NUM_SLOTS)[:, 1:]
        return partial(self.extend, one_hot_TF=torch.cat([types_TY, slots_TS], dim=1).bool())

    def extend(
        self, layer: int, query_TAE: Tensor, key_TAE: Tensor, value_TAE: Tensor, one_hot_TF: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Append dimensions to query, key and value (T, A, E) of a layer, so that attention adds
        the biases to its scores. Of its output, only the first E dimensions count."""
        heads, size = query_TAE.shape[1:]
        one_hot_TF = one_hot_TF.to(query_TAE.dtype)
        types_TY, slots_TS = one_hot_TF.split([NUM_TYPES, NUM_SLOTS], dim=1)
        types_AYY, same_A = (BIAS_SCALE * bias[layer] for bias in (self.types, self.same))
        by_type = torch.einsum("ty,ayz->taz", types_TY, types_AYY.to(query_TAE.dtype))
        by_slot = slots_TS[:, None] * same_A.to(query_TAE.dtype)[:, None]
        one_hot = one_hot_TF[:, None].expand(-1, heads, -1)
        extended = size + one_hot.shape[2]
        padded = math.ceil(extended / MULTIPLE) * MULTIPLE
        # Kernels divide scores by the square root of the padded head size. The factors correct for
        # that; one product each, because every product rounds.
        biases = torch.cat([by_type, by_slot], dim=2) * padded**0.5
        query = torch.cat([query_TAE * (padded / size) ** 0.5, biases], dim=2)
        return (
            F.pad(query, (0, padded - extended)),
            F.pad(torch.cat([key_TAE, one_hot], dim=2), (0, padded - extended)),
            F.pad(value_TAE, (0, padded - size)),
        )
