"""The context of a pair of concepts: what the two attend to, together and in each other's mentions.

Shapes: N tokens of the passes, K mentions, C concepts, P pairs, H hidden size, A heads, E head
size; D passes with at most n tokens, c concepts and p pairs; in a chunk of the pairs of one pass k
mentions, u concepts and q pairs.
"""

import copy
from collections.abc import Iterator
from functools import partial
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from embre.relations.pair_batch import PairBatch, PassIndices

# Initial falloffs of the heads are spread from 0, the whole document, to this, little but the
# sentence. Demo corpus, random encoder, mean `all` F1 of three seeds: 0.62 with heads from 0 to 4,
# 0.50 from 0 to 2, 0.59 from 1 to 4.
MAX_FALLOFF = 4.0
FALLOFF_SCALE = 50.0  # training moves a parameter by hundredths; a falloff has to move by tenths
MASKED_SCORE = -1e30  # minus infinity would make the gradients of masked rows NaN
MAX_SCORES = 1 << 22  # attention scores held at once on a CPU, 16 MB for each copy of them
# A GPU has the memory for more, and each chunk makes it wait for the host. A strip of BioRED has up
# to 4.6 times MAX_SCORES, so it is one chunk.
CUDA_FACTOR = 16


class LocalizedContext(nn.Module):
    """Three context vectors of each pair, after ATLOP's localized context pooling (Zhou et al.
    2021, arXiv 2010.11304): what both concepts attend to outside their mentions, and
    what each attends to within the mentions of the other.

    A concept h attends to token t in each head with the score

        q(h) · k(t) / sqrt(E) - falloff · log(1 + tokens from t to the nearest mention of h)

    with a learnt falloff. The shared context sums the scores of both concepts before the softmax,
    which equals the normalised product of their attentions. Query, key, value and output projection
    are initialised by those of a BERT layer, `attention`: random ones still attend to nothing
    specific after a few hundred steps.
    """

    def __init__(self, attention: Any):
        super().__init__()
        own = attention.self
        self.heads: int = own.num_attention_heads
        self.query, self.key, self.value = map(copy.deepcopy, (own.query, own.key, own.value))
        self.dense = copy.deepcopy(attention.output.dense)
        self.falloff_A = nn.Parameter(torch.linspace(0, MAX_FALLOFF, self.heads) / FALLOFF_SCALE)

    def forward(self, states_NH: Tensor, concepts_CH: Tensor, batch: PairBatch) -> Tensor:
        """(P, 3, H): the shared context of each pair, what its second concept attends to within the
        first, and what the first attends to within the second."""
        indices = batch.indices
        query_CAE = self.query(concepts_CH).unflatten(1, (self.heads, -1))
        key_NAE = self.key(states_NH).unflatten(1, (self.heads, -1))
        value_NAE = self.value(states_NH).unflatten(1, (self.heads, -1))
        num_rows = max(indices.concepts.shape[1], indices.pairs.shape[1])
        if num_rows * self.heads * indices.tokens.numel() > max_scores(indices.tokens.device):
            return self.dense(self._in_chunks(query_CAE, key_NAE, value_NAE, batch))
        # The index -1 of padding reads the last row. Such tokens are masked, such pairs left out.
        tokens = key_NAE[indices.tokens], value_NAE[indices.tokens]
        context_Dp3H = self._attend(query_CAE, *tokens, batch.mentions, indices)
        return self.dense(context_Dp3H.flatten(0, 1)[indices.pair_rows])

    def _in_chunks(
        self, query_CAE: Tensor, key_NAE: Tensor, value_NAE: Tensor, batch: PairBatch
    ) -> Tensor:
        """(P, 3, H) computed for chunks of pairs, and computed again in the backward pass, so that
        memory does not grow with pairs times tokens."""
        attend: Any = self._attend
        if torch.is_grad_enabled():
            attend = partial(checkpoint, attend, use_reentrant=False, preserve_rng_state=False)
        contexts, rows = [], []
        for number, tokens_n in enumerate(batch.indices.tokens):
            tokens_n = tokens_n[tokens_n >= 0]
            tokens = key_NAE[tokens_n][None], value_NAE[tokens_n][None]
            for chunk in chunks_of(batch.indices, number, batch.mentions, self.heads):
                query_uAE = query_CAE[chunk.concepts]
                context_1q3H = attend(query_uAE, *tokens, chunk.mentions, chunk.indices)
                contexts.append(context_1q3H[0])
                rows.append(chunk.indices.pair_rows)
        return torch.cat(contexts)[torch.cat(rows).argsort()]

    def _attend(
        self,
        query_CAE: Tensor,
        key_DnAE: Tensor,
        value_DnAE: Tensor,
        mentions_K3: Tensor,
        indices: PassIndices,
    ) -> Tensor:
        """(D, p, 3, H) attention outputs of each pair, heads concatenated."""
        scores_DcAn = torch.einsum("dcae,dnae->dcan", query_CAE[indices.concepts], key_DnAE).float()
        distance_Dcn = log_distances(mentions_K3, len(query_CAE), indices)
        falloff_A1 = FALLOFF_SCALE * self.falloff_A[:, None]
        scores_DcAn = (
            scores_DcAn / query_CAE.shape[2] ** 0.5 - falloff_A1 * distance_Dcn[:, :, None]
        ).masked_fill((indices.tokens < 0)[:, None, None], MASKED_SCORE)
        pairs_Dp2 = indices.pairs.clamp(min=0)
        row_D1 = torch.arange(len(pairs_Dp2), device=pairs_Dp2.device)[:, None]
        first, second = (scores_DcAn[row_D1, pairs_Dp2[..., side]] for side in (0, 1))
        outside_Dc1n = (distance_Dcn > 0)[:, :, None]
        not_first, not_second = (outside_Dc1n[row_D1, pairs_Dp2[..., side]] for side in (0, 1))
        masked_scores = (
            (first + second).masked_fill(~(not_first & not_second), MASKED_SCORE),
            second.masked_fill(not_first, MASKED_SCORE),
            first.masked_fill(not_second, MASKED_SCORE),
        )
        weights_3 = [scores_DpAn.softmax(3).to(value_DnAE.dtype) for scores_DpAn in masked_scores]
        outputs_3 = [torch.einsum("dpan,dnae->dpae", some, value_DnAE) for some in weights_3]
        return torch.stack(outputs_3, dim=2).flatten(3)


class PairChunk(NamedTuple):
    """Some pairs of one pass: their `concepts` (u,) as indices in C, the `mentions` (k, 3) of these
    concepts, and `indices` as for a batch of this pass, in which these concepts are 0 to u - 1.
    Only `indices.pair_rows` (q,) are those of the whole batch."""

    concepts: Tensor
    mentions: Tensor
    indices: PassIndices


def max_scores(device: torch.device) -> int:
    """The number of attention scores to hold at once on a device."""
    return MAX_SCORES * (CUDA_FACTOR if device.type == "cuda" else 1)


def chunks_of(
    indices: PassIndices, number: int, mentions_K3: Tensor, heads: int
) -> Iterator[PairChunk]:
    """Yield the pairs of pass `number` in chunks of bounded size.

    The matrix of first and second concepts is cut into squares, because the scores of a concept are
    computed again in each chunk with one of its pairs.
    """
    tokens_n, concepts_c, pairs_p2 = (part[number] for part in indices[:3])
    tokens_n, pairs_p2 = tokens_n[tokens_n >= 0], pairs_p2[pairs_p2[:, 0] >= 0]
    size = max(1, max_scores(tokens_n.device) // (heads * len(tokens_n)))
    squares_p2 = pairs_p2 // isqrt(2 * size)
    order_p = (squares_p2[:, 0] * len(concepts_c) + squares_p2[:, 1]).argsort(stable=True)
    for chunk_q in order_p.split(size):
        columns_u, pairs_q2 = pairs_p2[chunk_q].unique(return_inverse=True)
        concepts_u, numbers_u = concepts_c[columns_u], torch.arange(len(columns_u)).to(columns_u)
        number_C = torch.full_like(indices.pass_of_concept, -1).scatter(0, concepts_u, numbers_u)
        number_K = number_C[mentions_K3[:, 2]]
        mentions_k3 = torch.cat([mentions_K3[:, :2], number_K[:, None]], 1)[number_K >= 0]
        rows_q = number * indices.pairs.shape[1] + chunk_q
        own = PassIndices(tokens_n[None], numbers_u[None], pairs_q2[None], rows_q, numbers_u * 0)
        yield PairChunk(concepts_u, mentions_k3, own)


def log_distances(mentions_K3: Tensor, num_concepts: int, indices: PassIndices) -> Tensor:
    """(D, c, n) log(1 + tokens to the nearest mention) of each concept and token of a pass; 0
    within a mention.

    Computed for chunks of mentions: the thousands of a full text would take gigabytes.
    """
    num_tokens = indices.tokens.shape[1]
    nearest_Cn = torch.full((num_concepts, num_tokens), torch.inf, device=mentions_K3.device)
    for chunk_K3 in mentions_K3.split(max(1, max_scores(mentions_K3.device) // num_tokens)):
        tokens_Kn = indices.tokens[indices.pass_of_concept[chunk_K3[:, 2]]]
        before_Kn, after_Kn = chunk_K3[:, :1] - tokens_Kn, tokens_Kn - (chunk_K3[:, 1:2] - 1)
        distance_Kn = torch.maximum(before_Kn, after_Kn).clamp(min=0).float()
        concept_Kn = chunk_K3[:, 2:].expand_as(distance_Kn)
        nearest_Cn.scatter_reduce_(0, concept_Kn, distance_Kn, "amin")
    return nearest_Cn[indices.concepts].log1p()
