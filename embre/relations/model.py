"""The relation model: relation type and novelty of all candidate pairs of a micro-batch.

    tokens ─encoder─▶ states ─mean─▶ mentions ─log-mean-exp─▶ concepts ─▶ pairs ─▶ two MLPs

A mention is the mean of the states of its tokens and markers, as in the entity head of pretraining.
The features of a pair are the sum, product and absolute difference of its concepts, their shared
context (`localized_context`), and embeddings of their types and `location_codes`. They do not
depend on the order of the two concepts. After ATLOP (Zhou et al. 2021, arXiv 2010.11304).

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
from embre.relations.location_codes import NUM_EIGHTHS, NUM_MENTION_COUNTS, NUM_PROXIMITIES
from embre.relations.losses import LOSSES, novelty_loss, type_loss
from embre.relations.markers import marker_names
from embre.relations.pair_batch import PairBatch
from embre.relations.pair_labels import NOT_NOVEL, NOVEL, UNRELATED
from embre.tokenization.tokenizer import TextTokenizer

EMBEDDINGS_MULTIPLE = 64  # rows of the embedding matrix, for tensor cores and DeepSpeed's shards
PAIRS_AT_ONCE = 1 << 13  # through the MLPs: a full text may have a hundred thousand pairs


class Probabilities(NamedTuple):
    """Probabilities of pairs: `related` (P,); `types` (P, L - 1) given that it is related, 0 for
    illegal types; `novel` (P,) given that it is related, NaN if novelty was not learnt."""

    related: Tensor
    types: Tensor
    novel: Tensor


class RelationModel(nn.Module):
    """Maps a micro-batch to the sum of each loss; the engine takes the means, over all ranks.

    Of `encoder` (from `load_encoder`) only the BERT without its head is used. Its token embeddings
    are extended to `vocabulary` rows, for the markers. `half_precision`: bf16 autocast.
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
        self.types = code_embeddings(len(ENTITY_TYPES), hidden)
        self.nearness = code_embeddings(NUM_PROXIMITIES, hidden)
        self.times = code_embeddings(NUM_MENTION_COUNTS, hidden)
        self.relation = Perceptron(5 * hidden, config.hidden, num_labels, config.dropout)
        self.novelty = Perceptron(5 * hidden, config.hidden, 3, config.dropout)
        self.first = code_embeddings(NUM_EIGHTHS, hidden)
        self.last = code_embeddings(NUM_EIGHTHS, hidden)
        # Inputs of the MLPs on one scale. Without norms the context is ten times smaller than the
        # code embeddings, and a few hundred steps do not make up for that.
        self.concept_norm = nn.LayerNorm(hidden)
        self.context_norm = nn.LayerNorm(hidden)

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each mean loss in the total, by name; losses that train nothing are left
        out. With a single relation type there is no type loss."""
        type_weight = self.config.type_weight if self.num_labels > 2 else 0.0
        weights = {"relation": 1.0, "type": type_weight, "novelty": 1.0}
        unused = {"relation": {"novelty"}, "novelty": {"type"}, "both": set()}[self.config.tasks]
        if self.config.novelty_head_detects:
            unused = unused | {"relation"}
        return {name: weight for name, weight in weights.items() if weight and name not in unused}

    def forward(self, batch: PairBatch) -> dict[str, Tensor]:
        """The summed losses `relation`, `type` and `novelty`; 0 without targets."""
        relation_PL, novelty_P3 = self.logits(batch)
        loss = LOSSES[self.config.loss].loss
        return {
            "relation": loss(relation_PL, batch.relation_labels, self.config.none_weight),
            "type": type_loss(relation_PL, batch.relation_labels),
            "novelty": novelty_loss(novelty_P3, batch.novelty_labels, self.config.none_weight),
        }

    @torch.no_grad()
    def probabilities(self, batch: PairBatch) -> Probabilities:
        """The probabilities of all pairs. A model of novelty alone gives the first legal type the
        probability 1, so that it has no influence on decisions."""
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
        """(P, L) relation and (P, 3) novelty logits (UNRELATED, NOT_NOVEL, NOVEL), in float32.

        Minus infinity for illegal labels, and for UNRELATED if the relation head detects.
        """
        with torch.autocast(
            batch.input_ids.device.type, torch.bfloat16, enabled=self.half_precision
        ):
            states_NH = self._document_states(batch)
            concepts_CH = concept_vectors(
                states_NH, batch.mentions, batch.num_mention_tokens, len(batch.concept_types)
            )
            context_P3H = self.context_norm(self.context(states_NH, concepts_CH, batch).float())
            concepts_CH = self.concept_norm(concepts_CH)
            types_CH = self.types(batch.concept_types)
            of_pairs = (batch.pairs, batch.locations, context_P3H)
            chunks = zip(*(part.split(PAIRS_AT_ONCE) for part in of_pairs), strict=True)
            parts = [self._score(concepts_CH, types_CH, *chunk) for chunk in chunks]
        relation_PL, novelty_P3 = (torch.cat(part) for part in zip(*parts, strict=True))
        relation_PL = relation_PL.masked_fill(~batch.legal, -torch.inf)
        illegal_3 = torch.zeros(3, dtype=torch.bool, device=novelty_P3.device)
        illegal_3[UNRELATED] = self.config.detection_head == "relation"
        return relation_PL, novelty_P3.masked_fill(illegal_3, -torch.inf)

    def _score(
        self,
        concepts_CH: Tensor,
        types_CH: Tensor,
        pairs_P2: Tensor,
        locations_P4: Tensor,
        context_P3H: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """(P, L) relation and (P, 3) novelty logits of some pairs, before masking.

        Only the novelty head gets the positions in the document: with them, the relation head found
        fewer relations.
        """
        first, second = pairs_P2.unbind(1)
        context_PH, in_first_PH, in_second_PH = context_P3H.unbind(1)
        first_PH = (concepts_CH[first] + in_first_PH) * 0.5**0.5
        second_PH = (concepts_CH[second] + in_second_PH) * 0.5**0.5
        features = [
            first_PH + second_PH,
            first_PH * second_PH,
            (first_PH - second_PH).abs(),
            context_PH,
        ]
        proximity_P, mentions_P, first_P, last_P = locations_P4.unbind(1)
        codes_PH = types_CH[first] + types_CH[second]
        codes_PH = codes_PH + self.nearness(proximity_P) + self.times(mentions_P)
        positions_PH = self.first(first_P) + self.last(last_P)
        relation_PL = self.relation(torch.cat([*features, codes_PH], dim=1))
        return relation_PL, self.novelty(torch.cat([*features, codes_PH + positions_PH], dim=1))

    def _document_states(self, batch: PairBatch) -> Tensor:
        """(N, H) float32 states of the tokens of the passes, each the mean over its windows."""
        if batch.max_seqlen > self.max_positions:
            raise Refused(
                f"a window of {batch.max_seqlen} tokens for an encoder of {self.max_positions} "
                "positions: lower data.max_document_tokens"
            )
        extend = self.entities and self.entities.extension(batch.entity_codes)
        states_TH = encode_strip(
            self.bert,
            batch.input_ids,
            batch.position_ids,
            batch.cu_seqlens,
            batch.max_seqlen,
            extend=extend,
        ).float()
        num_tokens = batch.num_pass_tokens
        if num_tokens == len(states_TH):
            return states_TH
        sums_NH = states_TH.new_zeros(num_tokens, states_TH.shape[1])
        return sums_NH.index_add(0, batch.token_index, states_TH) / index_counts(
            batch.token_index, num_tokens
        )


def concept_vectors(
    states_NH: Tensor, mentions_K3: Tensor, num_mention_tokens: int, num_concepts: int
) -> Tensor:
    """(C, H) log-mean-exp of the vectors of each concept's mentions; `mentions_K3` are start, end
    and concept, `num_mention_tokens` their total length.

    ATLOP's log-sum-exp would add the logarithm of the number of mentions to every dimension.
    """
    concept_K = mentions_K3[:, 2]
    mentions_KH = span_means(states_NH, mentions_K3[:, :2], num_mention_tokens)
    shape = (num_concepts, states_NH.shape[1])
    concept_KH = concept_K[:, None].expand_as(mentions_KH)
    max_CH = mentions_KH.new_full(shape, -torch.inf).scatter_reduce(
        0, concept_KH, mentions_KH.detach(), "amax"
    )
    sums_CH = mentions_KH.new_zeros(shape).index_add(
        0, concept_K, (mentions_KH - max_CH[concept_K]).exp()
    )
    return (sums_CH / index_counts(concept_K, num_concepts)).log() + max_CH


def index_counts(index_K: Tensor, number: int) -> Tensor:
    """(number, 1) how often each of 0 to number - 1 occurs; `bincount` would synchronize with the
    GPU."""
    ones_K = torch.ones(len(index_K), device=index_K.device)
    return torch.zeros(number, device=index_K.device).index_add(0, index_K, ones_K)[:, None]


def init_markers(model: RelationModel, tokenizer: TextTokenizer) -> None:
    """Add to the embedding of each marker the mean embedding of its type's name. A few hundred
    steps would not teach an encoder the meaning of new tokens."""
    embeddings: Tensor = model.bert.embeddings.word_embeddings.weight
    with torch.no_grad():
        for marker, pieces in marker_names(tokenizer):
            embeddings[marker] += embeddings[pieces].mean(0)


def code_embeddings(number: int, hidden: int) -> nn.Embedding:
    """Embeddings with standard deviation 0.5, so that the sum of four has 1, like the output of a
    LayerNorm."""
    return nn.Embedding.from_pretrained(0.5 * torch.randn(number, hidden), freeze=False)


class Perceptron(nn.Sequential):
    """An MLP with one hidden layer and dropout. The last layer is in float32: bf16 would round the
    scores that thresholds are fitted to."""

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
