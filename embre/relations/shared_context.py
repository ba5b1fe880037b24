"""What two concepts of a document both attend to, for thousands of pairs in bounded memory.

Shapes: N tokens of the passes, K mentions, C concepts, P pairs, H hidden size, A heads, E head
size; D passes; n, c, p: most tokens, concepts, pairs of one.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from embre.relations.pair_batch import Grids, PairBatch

# At 4 a head sees little but the sentence, at 0 the whole document. Demo corpus, random encoder,
# mean `all` F1 of three seeds: 0.62 with heads from 0 to 4, 0.50 from 0 to 2, 0.59 from 1 to 4.
STEEPEST_FALLOFF = 4.0
CHUNK_SCORES = 1 << 22  # attention scores held at once: 16 MB each time they are kept


class SharedContext(nn.Module):
    """What two concepts of a document both attend to.

    The scores of the two are added before the softmax, which is the normalised product of their
    attentions. A concept's attention falls off with the distance to its nearest mention, by a
    power that each head learns; so the heads begin with different ideas of "near".
    """

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        if hidden % heads:
            raise ValueError(f"pairs.context_heads ({heads}) must divide the hidden size {hidden}")
        self.heads = heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.falloff_A = nn.Parameter(torch.linspace(0, STEEPEST_FALLOFF, heads))

    def forward(self, states_NH: Tensor, concepts_CH: Tensor, batch: PairBatch) -> Tensor:
        """(P, H): each head's mean of the pass's tokens, heads side by side."""
        grids = batch.grids
        query_CAE = self.query(concepts_CH).unflatten(1, (self.heads, -1))
        key_NAE = self.key(states_NH).unflatten(1, (self.heads, -1))
        value_NAE = self.value(states_NH).unflatten(1, (self.heads, -1))
        # Grids hold -1 beyond the end of a pass: the last row, which nobody looks at.
        key_DnAE, value_DnAE = key_NAE[grids.tokens], value_NAE[grids.tokens]
        scores_DcAn = torch.einsum("dcae,dnae->dcan", query_CAE[grids.concepts], key_DnAE).float()
        distance_Dcn = log_distances(batch.mentions, len(concepts_CH), grids)
        scores_DcAn = (
            scores_DcAn / query_CAE.shape[2] ** 0.5
            - self.falloff_A[:, None] * distance_Dcn[:, :, None]
        ).masked_fill((grids.tokens < 0)[:, None, None], -torch.inf)
        found_DpH = attend_together(scores_DcAn, value_DnAE, grids.pairs).flatten(2)
        return found_DpH.flatten(0, 1)[grids.rows]


def attend_together(scores_DcAn: Tensor, value_DnAE: Tensor, pairs_Dp2: Tensor) -> Tensor:
    """(D, p, A, E) the means of values that both concepts of each pair look at.

    In chunks that are computed again in the backward pass, so that thousands of pairs of a long
    document do not fill the memory.
    """
    num_passes, _, heads, num_tokens = scores_DcAn.shape
    size = max(1, CHUNK_SCORES // (num_passes * heads * num_tokens))
    pairs_Dp2 = pairs_Dp2.clamp(min=0)
    if pairs_Dp2.shape[1] <= size:
        return _attend(scores_DcAn, value_DnAE, pairs_Dp2)
    parts: list[Any] = [
        checkpoint(
            _attend, scores_DcAn, value_DnAE, chunk, use_reentrant=False, preserve_rng_state=False
        )
        for chunk in pairs_Dp2.split(size, dim=1)
    ]
    return torch.cat(parts, dim=1)


def _attend(scores_DcAn: Tensor, value_DnAE: Tensor, pairs_Dp2: Tensor) -> Tensor:
    of_pass = torch.arange(len(pairs_Dp2), device=pairs_Dp2.device)[:, None]
    first, second = (scores_DcAn[of_pass, pairs_Dp2[..., side]] for side in (0, 1))
    weights_DpAn = (first + second).softmax(3)
    return torch.einsum("dpan,dnae->dpae", weights_DpAn.to(value_DnAE.dtype), value_DnAE)


def log_distances(mentions_K3: Tensor, num_concepts: int, grids: Grids) -> Tensor:
    """(D, c, n) log(1 + tokens from where the nearest mention of a concept starts), of each pass.

    Some mentions at a time: thousands of them in a full text would fill gigabytes.
    """
    num_tokens = grids.tokens.shape[1]
    nearest_Cn = torch.full((num_concepts, num_tokens), torch.inf, device=mentions_K3.device)
    for some_K3 in mentions_K3.split(max(1, CHUNK_SCORES // num_tokens)):
        places_Kn = grids.tokens[grids.owners[some_K3[:, 2]]]
        distance_Kn = (some_K3[:, :1] - places_Kn).abs().float()
        owner_Kn = some_K3[:, 2:].expand_as(distance_Kn)
        nearest_Cn.scatter_reduce_(0, owner_Kn, distance_Kn, "amin")
    return nearest_Cn[grids.concepts].log1p()
