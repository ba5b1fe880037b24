"""Entity-aware attention: biases for tokens in mentions, by entity type and concept.

Each head of each layer adds to its scores a bias for the entity types of the two tokens, and one
for tokens of the same concept: the structural biases of SSAN (Xu et al. 2021, arXiv 2102.10249)
without their content terms. All are initialised to zero, so an untrained one changes nothing.

The biases are computed as extra dimensions of query and key, so any attention kernel works.
Shapes: T tokens, A heads, E head size, Y entity types (none first), S concept slots, F = Y + S.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embre.entity_types import ENTITY_TYPES
from embre.model.strip_forward import Extend
from embre.relations.passes import NUM_SLOTS

NUM_ROLES = 1 + len(ENTITY_TYPES)
UNIT = 50.0  # training moves a weight by hundredths, and a bias has to move by ones
MULTIPLE = 8  # of head sizes that CUDA kernels support


class EntityAttention(nn.Module):
    """The biases of all layers in UNITs; `types` (layers, A, Y, Y), `same` (layers, A)."""

    def __init__(self, layers: int, heads: int):
        super().__init__()
        self.types = nn.Parameter(torch.zeros(layers, heads, NUM_ROLES, NUM_ROLES))
        self.same = nn.Parameter(torch.zeros(layers, heads))

    def by_roles(self, roles_T2: Tensor) -> Extend:
        """The `Extend` function for a strip whose tokens have these roles (T, 2)."""
        types_TY = F.one_hot(roles_T2[:, 0], NUM_ROLES)
        slots_TS = F.one_hot(roles_T2[:, 1], 1 + NUM_SLOTS)[:, 1:]
        return partial(self.extend, found_TF=torch.cat([types_TY, slots_TS], dim=1).bool())

    def extend(
        self, layer: int, query_TAE: Tensor, key_TAE: Tensor, value_TAE: Tensor, found_TF: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Append dimensions to query, key and value of one layer. The first E dimensions of the
        attention output are the result. `found_TF` marks each token's type and slot."""
        heads, size = query_TAE.shape[1:]
        found_TF = found_TF.to(query_TAE.dtype)
        types_TY, slots_TS = found_TF.split([NUM_ROLES, NUM_SLOTS], dim=1)
        types_AYY, same_A = (UNIT * bias[layer] for bias in (self.types, self.same))
        by_type = torch.einsum("ty,ayz->taz", types_TY, types_AYY.to(query_TAE.dtype))
        by_slot = slots_TS[:, None] * same_A.to(query_TAE.dtype)[:, None]
        found = found_TF[:, None].expand(-1, heads, -1)
        wide = size + found.shape[2]
        more = math.ceil(wide / MULTIPLE) * MULTIPLE
        # Kernels divide scores by the root of the extended head size. Correct for that in one
        # product each, because every product rounds.
        biases = torch.cat([by_type, by_slot], dim=2) * more**0.5
        extended = torch.cat([query_TAE * (more / size) ** 0.5, biases], dim=2)
        return (
            F.pad(extended, (0, more - wide)),
            F.pad(torch.cat([key_TAE, found], dim=2), (0, more - wide)),
            F.pad(value_TAE, (0, more - size)),
        )
