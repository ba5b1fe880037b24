"""Predicted probabilities of candidate pairs, and the decision which of them are relations.

Shapes: P pairs, R relation types of the schema.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from embre.document import Concept, Relation
from embre.relation_schema import RelationSchema

OTHERS = ""  # the key of everything without a value of its own
# The numeric columns of `ScoredPairs`, in order, besides `documents`.
COLUMNS = ("related", "types", "novel", "relation_labels", "gold_novel")


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """All candidate pairs of some documents, in their order.

    `documents` (P,) is the index of each pair's document, below `num_documents`. `related` (P,) is
    the probability that the pair is related, `types` (P, R) that of each relation type if it is (0
    if illegal), `novel` (P,) that the relation is novel if there is one, nan if the model has not
    learnt it. `relation_labels` (P,) are gold: 0 for None, else 1 + the index in `relation_types`,
    UNLABELLED (-100) if unknown; `gold_novel` (P,) is 1.0 for novel, 0.0 for not, nan if unknown.
    """

    num_documents: int
    documents: np.ndarray
    concepts: Sequence[tuple[Concept, Concept]]
    related: np.ndarray
    types: np.ndarray
    novel: np.ndarray
    relation_labels: np.ndarray
    gold_novel: np.ndarray

    def __len__(self) -> int:
        return len(self.documents)

    def subset(self, rows: np.ndarray) -> "ScoredPairs":
        """Some of the pairs, by indices or mask; `num_documents` stays."""
        chosen = np.arange(len(self))[rows].tolist()
        return ScoredPairs(
            self.num_documents,
            self.documents[rows],
            [self.concepts[row] for row in chosen],
            *(getattr(self, column)[rows] for column in COLUMNS),
        )

    @property
    def pair_types(self) -> list[str]:
        """The two entity types of each pair in alphabetical order, such as `Chemical Disease`."""
        return [" ".join(sorted((a.type, b.type))) for a, b in self.concepts]

    @property
    def has_novelty(self) -> bool:
        """Whether model and gold both state the novelty of some pairs."""
        return not (np.isnan(self.novel).all() or np.isnan(self.gold_novel).all())

    @property
    def right(self) -> dict[str, np.ndarray]:
        """(P,) whether the pair with its most likely type and novelty is gold, by metric.

        Novelty that only one side states is wrong, as in `scoring`. If a side never states it, it
        is ignored: nothing would be right, and no threshold could be chosen.
        """
        likeliest = self.types.argmax(1) if len(self) else np.zeros(0, dtype=np.int64)
        same_type = self.relation_labels == likeliest + 1
        known = ~np.isnan(self.novel) & ~np.isnan(self.gold_novel)
        agree = known & ((self.novel >= 0.5) == (self.gold_novel == 1)) | (not self.has_novelty)
        related = self.relation_labels != 0
        return {
            "pair": related,
            "pair_type": same_type,
            "pair_novelty": related & agree,
            "all": same_type & agree,
        }

    def confidence(self, metric: str) -> np.ndarray:
        """(P,) the probability that everything a metric checks is right."""
        confidence = self.related
        if metric in ("pair_type", "all"):
            confidence = confidence * self.types.max(1, initial=0.0)
        if metric in ("pair_novelty", "all"):
            sure = np.maximum(self.novel, 1 - self.novel)
            confidence = confidence * np.where(np.isnan(self.novel), 1.0, sure)
        return confidence


@dataclass(frozen=True, slots=True)
class Decision:
    """Calibration and thresholds: which pairs are relations.

    `scale` and `biases` (by pair type, as `Chemical Disease`) calibrate the logit of `related`:
    logit' = scale · logit + bias; `novelty` (scale, bias) that of `novel`. A pair is a relation if
    the calibrated probability that everything `metric` checks is right reaches the threshold of its
    most likely relation type. The key OTHERS stands for all types without an entry.
    """

    scale: float = 1.0
    biases: Mapping[str, float] = field(default_factory=lambda: {OTHERS: 0.0})
    novelty: tuple[float, float] = (1.0, 0.0)
    thresholds: Mapping[str, float] = field(default_factory=lambda: {OTHERS: 0.5})
    metric: str = "pair"

    def at(self, threshold: float) -> "Decision":
        """A copy with one threshold on the calibrated probability of `related`, for every pair."""
        return replace(self, thresholds={OTHERS: threshold}, metric="pair")

    def calibrated(self, pairs: ScoredPairs) -> ScoredPairs:
        """The pairs with calibrated `related` and `novel`."""
        named = [self.biases.get(kind, self.biases[OTHERS]) for kind in pairs.pair_types]
        related_bias = np.array(named)
        scale, bias = self.novelty
        return replace(
            pairs,
            related=sigmoid(self.scale * logit(pairs.related) + related_bias),
            novel=sigmoid(scale * logit(pairs.novel) + bias),
        )


def decide(
    pairs: ScoredPairs, decision: Decision, schema: RelationSchema
) -> list[tuple[Relation, ...]]:
    """Predict the relations of each document.

    `Relation.probability` is the calibrated probability that the pair is related; `novel` is
    whether its novelty reaches one half, None if unknown.
    """
    pairs = decision.calibrated(pairs)
    likeliest = pairs.types.argmax(1) if len(pairs) else np.zeros(0, dtype=np.int64)
    thresholds = np.array(
        [decision.thresholds.get(t, decision.thresholds[OTHERS]) for t in schema.relation_types]
    )
    relations_of: list[list[Relation]] = [[] for _ in range(pairs.num_documents)]
    for row in np.flatnonzero(pairs.confidence(decision.metric) >= thresholds[likeliest]).tolist():
        head, tail = pairs.concepts[row]
        novel = pairs.novel[row]
        relations_of[pairs.documents[row]].append(
            Relation(
                head=head,
                tail=tail,
                type=schema.relation_types[likeliest[row]],
                novel=None if np.isnan(novel) else bool(novel >= 0.5),
                probability=float(pairs.related[row]),
            )
        )
    return [tuple(relations) for relations in relations_of]


def interleaved(parts: Sequence[ScoredPairs]) -> ScoredPairs:
    """Merge pairs of documents that were distributed round-robin (document i to part i mod parts),
    in document order."""
    whole = ScoredPairs(
        sum(part.num_documents for part in parts),
        np.concatenate([p.documents * len(parts) + i for i, p in enumerate(parts)]),
        [pair for part in parts for pair in part.concepts],
        *(np.concatenate([getattr(part, column) for part in parts]) for column in COLUMNS),
    )
    return whole.subset(np.argsort(whole.documents, kind="stable"))


def logit(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) in float64, kept finite."""
    p = np.clip(probability.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.log(p) - np.log1p(-p)


def sigmoid(value: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-value), without overflow; nan for nan."""
    with np.errstate(invalid="ignore"):
        return np.exp(-np.logaddexp(0, -value))
