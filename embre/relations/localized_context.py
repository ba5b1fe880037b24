"""What two concepts of a document attend to, for thousands of pairs in bounded memory.

Shapes: N tokens of the passes, K mentions, C concepts, P pairs, H hidden size, A heads, E head
size; D passes; n, c, p: most tokens, concepts, pairs of one; k, u, q: mentions, concepts, pairs of
a share.
"""

import copy
from collections.abc import Iterator
from functools import partial
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from embre.relations.pair_batch import Grids, PairBatch

# At 4 a head sees little but the sentence, at 0 the whole document. Demo corpus, random encoder,
# mean `all` F1 of three seeds: 0.62 with heads from 0 to 4, 0.50 from 0 to 2, 0.59 from 1 to 4.
STEEPEST_FALLOFF = 4.0
# A weight moves by hundredths in a run, and a falloff has to move by tenths.
FALLOFF_UNIT = 50.0
MASKED_SCORE = -1e30  # minus infinity would make the gradients of unused rows nan
CHUNK_SCORES = 1 << 22  # attention scores held at once: 16 MB each time they are kept
# A GPU waits for the host in every share, and has the room: full strips of BioRED, which have up to
# 4.6 times as many, go at once.
TIMES_ON_CUDA = 16


class LocalizedContext(nn.Module):
    """What two concepts of a document attend to: together outside of their mentions, and each
    within those of the other.

    It begins as a BERT's `attention`, asked by concepts in place of tokens: some hundred steps
    would not teach new weights to attend to anything. The scores of the two are added before the
    softmax, which is the normalised product of their attentions. A concept's attention falls off
    with the distance to its nearest mention, by a power that each head learns; so the heads begin
    with different ideas of "near".
    """

    def __init__(self, attention: Any):
        super().__init__()
        own = attention.self
        self.heads: int = own.num_attention_heads
        self.query, self.key, self.value = map(copy.deepcopy, (own.query, own.key, own.value))
        self.dense = copy.deepcopy(attention.output.dense)
        falloffs_A = torch.linspace(0, STEEPEST_FALLOFF, self.heads)
        self.falloff_A = nn.Parameter(falloffs_A / FALLOFF_UNIT)

    def forward(self, states_NH: Tensor, concepts_CH: Tensor, batch: PairBatch) -> Tensor:
        """(P, 3, H): the context that a pair shares, its first concept as the second sees it, and
        its second as the first does.

        What is more than some scores is computed in shares, and again in the backward pass, so
        that thousands of concepts and pairs of a long document do not fill the memory.
        """
        grids = batch.grids
        query_CAE = self.query(concepts_CH).unflatten(1, (self.heads, -1))
        key_NAE = self.key(states_NH).unflatten(1, (self.heads, -1))
        value_NAE = self.value(states_NH).unflatten(1, (self.heads, -1))
        rows = max(grids.concepts.shape[1], grids.pairs.shape[1])
        if rows * self.heads * grids.tokens.numel() <= most_scores(grids.tokens.device):
            # Grids hold -1 beyond the end of a pass: the last row, which nobody looks at.
            read = key_NAE[grids.tokens], value_NAE[grids.tokens]
            found_Dp3H = self._attend(query_CAE, *read, batch.mentions, grids)
            return self.dense(found_Dp3H.flatten(0, 1)[grids.rows])
        places: list[Tensor] = []
        parts: list[Any] = []
        attend = self._attend
        if torch.is_grad_enabled():
            attend = partial(checkpoint, attend, use_reentrant=False, preserve_rng_state=False)
        for number, tokens_n in enumerate(grids.tokens):
            tokens_n = tokens_n[tokens_n >= 0]
            read = key_NAE[tokens_n][None], value_NAE[tokens_n][None]
            for share in shares_of(grids, number, batch.mentions, self.heads):
                parts.append(attend(query_CAE[share.concepts], *read, share.mentions, share.grids))
                places.append(share.grids.rows)
        found_P3H = torch.cat([part.flatten(0, 1) for part in parts])
        return self.dense(found_P3H[torch.cat(places).argsort()])

    def _attend(
        self,
        query_CAE: Tensor,
        key_DnAE: Tensor,
        value_DnAE: Tensor,
        mentions_K3: Tensor,
        grids: Grids,
    ) -> Tensor:
        """(D, p, 3, H) the means of values that each pair looks at, heads side by side."""
        scores_DcAn = torch.einsum("dcae,dnae->dcan", query_CAE[grids.concepts], key_DnAE).float()
        distance_Dcn = log_distances(mentions_K3, len(query_CAE), grids)
        falloff_A1 = FALLOFF_UNIT * self.falloff_A[:, None]
        scores_DcAn = (
            scores_DcAn / query_CAE.shape[2] ** 0.5 - falloff_A1 * distance_Dcn[:, :, None]
        ).masked_fill((grids.tokens < 0)[:, None, None], MASKED_SCORE)
        pairs_Dp2 = grids.pairs.clamp(min=0)
        of_pass = torch.arange(len(pairs_Dp2), device=pairs_Dp2.device)[:, None]
        first, second = (scores_DcAn[of_pass, pairs_Dp2[..., side]] for side in (0, 1))
        outside_Dc1n = (distance_Dcn > 0)[:, :, None]
        not_first, not_second = (outside_Dc1n[of_pass, pairs_Dp2[..., side]] for side in (0, 1))
        looks = (
            (first + second).masked_fill(~(not_first & not_second), MASKED_SCORE),
            second.masked_fill(not_first, MASKED_SCORE),
            first.masked_fill(not_second, MASKED_SCORE),
        )
        weights_3 = [look_DpAn.softmax(3).to(value_DnAE.dtype) for look_DpAn in looks]
        means_3 = [torch.einsum("dpan,dnae->dpae", some, value_DnAE) for some in weights_3]
        return torch.stack(means_3, dim=2).flatten(3)


class Share(NamedTuple):
    """Some pairs of one pass by themselves: which concepts they are of, and those concepts'
    mentions and the pass's grids with these concepts counted from 0. `grids.rows` stay those of
    the whole."""

    concepts: Tensor
    mentions: Tensor
    grids: Grids


def most_scores(device: torch.device) -> int:
    """How many scores are held at once on a device."""
    return CHUNK_SCORES * (TIMES_ON_CUDA if device.type == "cuda" else 1)


def shares_of(grids: Grids, number: int, mentions_K3: Tensor, heads: int) -> Iterator[Share]:
    """The pairs of a pass in shares of bounded size. Neighbours in a square of first and second
    concepts come together: the scores of a concept are computed for each share that it is in."""
    tokens_n, concepts_c, pairs_p2 = (grid[number] for grid in grids[:3])
    tokens_n, pairs_p2 = tokens_n[tokens_n >= 0], pairs_p2[pairs_p2[:, 0] >= 0]
    size = max(1, most_scores(tokens_n.device) // (heads * len(tokens_n)))
    squares_p2 = pairs_p2 // isqrt(2 * size)
    order_p = (squares_p2[:, 0] * len(concepts_c) + squares_p2[:, 1]).argsort(stable=True)
    for some_q in order_p.split(size):
        used_u, pairs_q2 = pairs_p2[some_q].unique(return_inverse=True)
        concepts_u, places_u = concepts_c[used_u], torch.arange(len(used_u)).to(used_u)
        owner_K = torch.full_like(grids.owners, -1).scatter(0, concepts_u, places_u)
        owner_K = owner_K[mentions_K3[:, 2]]
        mentions_k3 = torch.cat([mentions_K3[:, :2], owner_K[:, None]], 1)[owner_K >= 0]
        rows_q = number * grids.pairs.shape[1] + some_q
        own = Grids(tokens_n[None], places_u[None], pairs_q2[None], rows_q, places_u * 0)
        yield Share(concepts_u, mentions_k3, own)


def log_distances(mentions_K3: Tensor, num_concepts: int, grids: Grids) -> Tensor:
    """(D, c, n) log(1 + tokens to the nearest mention of a concept), of each pass; 0 within one.

    Some mentions at a time: thousands of them in a full text would fill gigabytes.
    """
    num_tokens = grids.tokens.shape[1]
    nearest_Cn = torch.full((num_concepts, num_tokens), torch.inf, device=mentions_K3.device)
    for some_K3 in mentions_K3.split(max(1, most_scores(mentions_K3.device) // num_tokens)):
        places_Kn = grids.tokens[grids.owners[some_K3[:, 2]]]
        before_Kn, behind_Kn = some_K3[:, :1] - places_Kn, places_Kn - (some_K3[:, 1:2] - 1)
        distance_Kn = torch.maximum(before_Kn, behind_Kn).clamp(min=0).float()
        owner_Kn = some_K3[:, 2:].expand_as(distance_Kn)
        nearest_Cn.scatter_reduce_(0, owner_Kn, distance_Kn, "amin")
    return nearest_Cn[grids.concepts].log1p()
