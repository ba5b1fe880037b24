"""The relation model: one pass scores all candidate pairs that are in it.

A mention is the mean over its tokens and markers, as the entity head reads it in pretraining; a
concept is the soft mean of its mentions and what its partner sees of them; a pair is its two
concepts, the context that both attend to, and how and where they meet. Two perceptrons give the
relation type and novelty, and one of them, by a label None of its own, whether there is a relation
at all. After ATLOP (Zhou et al. 2021, arXiv 2010.11304), without order between the two concepts.

Shapes: T tokens of the strip, N tokens of the passes, K mentions, C concepts, P pairs, L labels,
H hidden size.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embre.config import PairConfig
from embre.entity_types import ENTITY_TYPES
from embre.model.heads import span_means
from embre.model.strip_forward import encode_strip
from embre.refused import Refused
from embre.relations.entity_attention import EntityAttention
from embre.relations.localized_context import LocalizedContext
from embre.relations.losses import LOSSES, novelty_loss, type_loss
from embre.relations.markers import marker_names
from embre.relations.pair_batch import PairBatch
from embre.relations.passes import (
    NOT_NOVEL,
    NOVEL,
    NUM_EIGHTHS,
    NUM_NEARNESS,
    NUM_TIMES,
    UNRELATED,
)
from embre.tokenization.tokenizer import TextTokenizer

EMBEDDINGS_MULTIPLE = 64  # rows of the embedding matrix, for tensor cores and DeepSpeed's shards
PAIRS_AT_ONCE = 1 << 13  # through the perceptrons: a full text may have a hundred thousand


class Probabilities(NamedTuple):
    """`related` (P,) that a pair is related; `types` (P, L - 1) of each type if it is, 0 for the
    illegal ones; `novel` (P,) that the relation is novel if there is one, nan if not learnt."""

    related: Tensor
    types: Tensor
    novel: Tensor


class RelationModel(nn.Module):
    """A micro-batch in, the sum of each loss out. Means are taken by the engine, over all ranks.

    Of `encoder` (see `load_encoder`) only the plain BERT is kept; it grows to `vocabulary`
    tokens for the markers.
    """

    def __init__(
        self,
        encoder: nn.Module,
        config: PairConfig,
        num_labels: int,
        vocabulary: int,
        half_precision: bool,
    ):
        super().__init__()
        bert: Any = encoder.bert
        if vocabulary > bert.config.vocab_size:
            bert.resize_token_embeddings(
                vocabulary, pad_to_multiple_of=EMBEDDINGS_MULTIPLE, mean_resizing=False
            )
        self.bert = bert
        self.config = config
        self.num_labels = num_labels
        shape = bert.config
        self.max_positions = shape.max_position_embeddings
        self.half_precision = half_precision
        self.entities = (
            EntityAttention(shape.num_hidden_layers, shape.num_attention_heads)
            if config.attention == "entity_aware"
            else None
        )
        hidden = shape.hidden_size
        self.context = LocalizedContext(bert.encoder.layer[-1].attention)
        self.types = codes(len(ENTITY_TYPES), hidden)
        self.nearness = codes(NUM_NEARNESS, hidden)
        self.times = codes(NUM_TIMES, hidden)
        self.relation = Perceptron(5 * hidden, config.hidden, num_labels, config.dropout)
        self.novelty = Perceptron(5 * hidden, config.hidden, 3, config.dropout)
        self.first = codes(NUM_EIGHTHS, hidden)
        self.last = codes(NUM_EIGHTHS, hidden)
        # What the perceptrons read has one size. Weights move by hundredths in a run, so they would
        # hardly learn of a context that is ten times smaller than the codes.
        self.concept_norm = nn.LayerNorm(hidden)
        self.context_norm = nn.LayerNorm(hidden)

    @property
    def loss_weights(self) -> dict[str, float]:
        """What each mean counts, of what is learnt; a single type needs no learning."""
        type_weight = self.config.type_weight if self.num_labels > 2 else 0.0
        weights = {"relation": 1.0, "type": type_weight, "novelty": 1.0}
        left_out = {"relation": {"novelty"}, "novelty": {"type"}, "both": set()}[self.config.tasks]
        if self.config.novelty_head_detects:
            left_out = left_out | {"relation"}
        return {name: weight for name, weight in weights.items() if weight and name not in left_out}

    def forward(self, batch: PairBatch) -> dict[str, Tensor]:
        """The summed losses `relation`, `type` and `novelty`; 0 where there is no target."""
        relation_PL, novelty_P3 = self.logits(batch)
        loss = LOSSES[self.config.loss].loss
        return {
            "relation": loss(relation_PL, batch.relation_labels, self.config.none_weight),
            "type": type_loss(relation_PL, batch.relation_labels),
            "novelty": novelty_loss(novelty_P3, batch.novelty_labels, self.config.none_weight),
        }

    @torch.no_grad()
    def probabilities(self, batch: PairBatch) -> Probabilities:
        """Of a model that learnt novelty alone, the first legal type is certain: it is not to
        count in a decision."""
        relation_PL, novelty_P3 = self.logits(batch)
        novel_P = (novelty_P3[:, NOVEL] - novelty_P3[:, NOT_NOVEL]).sigmoid()
        if self.config.tasks == "relation":
            novel_P = torch.full_like(novel_P, torch.nan)
        related_P, types_PR = LOSSES[self.config.loss].probabilities(relation_PL)
        if self.config.novelty_head_detects:
            related_P = novelty_P3.softmax(1)[:, UNRELATED + 1 :].sum(1)
        if self.config.tasks == "novelty":
            first_P = batch.legal[:, 1:].int().argmax(1)
            types_PR = F.one_hot(first_P, batch.legal.shape[1] - 1).float()
        return Probabilities(related_P, types_PR, novel_P)

    def logits(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """(P, L), minus infinity for illegal labels, and (P, 3) in the order of the novelty
        labels, minus infinity for UNRELATED where it is none; both in float32."""
        with torch.autocast(
            batch.input_ids.device.type, torch.bfloat16, enabled=self.half_precision
        ):
            states_NH = self._document_states(batch)
            concepts_CH = concept_vectors(
                states_NH, batch.mentions, batch.num_marked, len(batch.concept_types)
            )
            seen_P3H = self.context_norm(self.context(states_NH, concepts_CH, batch).float())
            concepts_CH = self.concept_norm(concepts_CH)
            types_CH = self.types(batch.concept_types)
            of_pairs = (batch.pairs, batch.locations, seen_P3H)
            chunks = zip(*(part.split(PAIRS_AT_ONCE) for part in of_pairs), strict=True)
            parts = [self._score(concepts_CH, types_CH, *chunk) for chunk in chunks]
        relation_PL, novelty_P3 = (torch.cat(part) for part in zip(*parts, strict=True))
        relation_PL = relation_PL.masked_fill(~batch.legal, -torch.inf)
        never_3 = torch.zeros(3, dtype=torch.bool, device=novelty_P3.device)
        never_3[UNRELATED] = self.config.detection_head == "relation"
        return relation_PL, novelty_P3.masked_fill(never_3, -torch.inf)

    def _score(
        self,
        concepts_CH: Tensor,
        types_CH: Tensor,
        pairs_P2: Tensor,
        locations_P4: Tensor,
        seen_P3H: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(P, L) and (P, 3) of some pairs: nothing in their features depends on which concept of a
        pair comes first. Novelty alone is told where they meet: the relation head found fewer of
        them when it was.
        """
        first, second = pairs_P2.unbind(1)
        context_PH, first_PH, second_PH = seen_P3H.unbind(1)
        one = (concepts_CH[first] + first_PH) * 0.5**0.5
        other = (concepts_CH[second] + second_PH) * 0.5**0.5
        near_P, times_P, first_P, last_P = locations_P4.unbind(1)
        parts = [
            one + other,
            one * other,
            (one - other).abs(),
            context_PH,
        ]
        how = types_CH[first] + types_CH[second] + self.nearness(near_P) + self.times(times_P)
        where = self.first(first_P) + self.last(last_P)
        relation_PL = self.relation(torch.cat([*parts, how], dim=1))
        return relation_PL, self.novelty(torch.cat([*parts, how + where], dim=1))

    def _document_states(self, batch: PairBatch) -> Tensor:
        """(N, H) float32: the state of each token of a pass, its mean over the windows it is in."""
        if batch.max_seqlen > self.max_positions:
            raise Refused(
                f"a window of {batch.max_seqlen} tokens for an encoder of {self.max_positions} "
                "positions: lower data.max_document_tokens"
            )
        extend = self.entities and self.entities.by_roles(batch.roles)
        states_TH = encode_strip(
            self.bert,
            batch.input_ids,
            batch.position_ids,
            batch.cu_seqlens,
            batch.max_seqlen,
            extend=extend,
        ).float()
        num_tokens = batch.num_read
        if num_tokens == len(states_TH):
            return states_TH
        sums_NH = states_TH.new_zeros(num_tokens, states_TH.shape[1])
        return sums_NH.index_add(0, batch.reads, states_TH) / counts(batch.reads, num_tokens)


def concept_vectors(
    states_NH: Tensor, mentions_K3: Tensor, num_marked: int, num_concepts: int
) -> Tensor:
    """(C, H) log-mean-exp over the vectors of each concept's mentions.

    Not the sum: it would add the logarithm of their number to every place of the vector.
    `num_marked` tokens are in all mentions together.
    """
    owner_K = mentions_K3[:, 2]
    states_KH = span_means(states_NH, mentions_K3[:, :2], num_marked)
    shape = (num_concepts, states_NH.shape[1])
    owner_KH = owner_K[:, None].expand_as(states_KH)
    highest_CH = states_KH.new_full(shape, -torch.inf).scatter_reduce(
        0, owner_KH, states_KH.detach(), "amax"
    )
    sums_CH = states_KH.new_zeros(shape).index_add(
        0, owner_K, (states_KH - highest_CH[owner_K]).exp()
    )
    return (sums_CH / counts(owner_K, num_concepts)).log() + highest_CH


def counts(places_K: Tensor, number: int) -> Tensor:
    """(number, 1) how often each place comes; `bincount` would have the host wait for a GPU."""
    ones_K = torch.ones(len(places_K), device=places_K.device)
    return torch.zeros(number, device=places_K.device).index_add(0, places_K, ones_K)[:, None]


def name_markers(model: RelationModel, tokenizer: TextTokenizer) -> None:
    """Let new markers begin near the name of their type: the encoder has never seen them, and some
    hundred steps would not teach it what they stand for."""
    embeddings: Tensor = model.bert.embeddings.word_embeddings.weight
    with torch.no_grad():
        for marker, pieces in marker_names(tokenizer):
            embeddings[marker] += embeddings[pieces].mean(0)


def codes(number: int, hidden: int) -> nn.Embedding:
    """A vector for each code, half the size of a normed one: four of them are added up."""
    return nn.Embedding.from_pretrained(0.5 * torch.randn(number, hidden), freeze=False)


class Perceptron(nn.Sequential):
    """One hidden layer. Scores are not bf16, which would round what thresholds are fitted to."""

    def __init__(self, width: int, hidden: int, num_labels: int, dropout: float):
        super().__init__(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, num_labels)
        )

    def forward(self, features_PF: Tensor) -> Tensor:
        """(P, num_labels)."""
        *hidden_layers, last = self
        for layer in hidden_layers:
            features_PF = layer(features_PF)
        with torch.autocast(features_PF.device.type, enabled=False):
            return last(features_PF.float())
