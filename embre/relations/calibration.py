"""From scored pairs of annotated documents to the decision that suits them.

Shapes: P pairs, K values that are fitted, N pairs with one relation type, B bins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from embre.document import Relation
from embre.relation_schema import RelationSchema
from embre.relations.scored_pairs import OTHERS, Decision, ScoredPairs, decide, logit, sigmoid

MIN_GROUP_SIZE = 30  # pairs or relations of a kind, for a value of its own
SHARED_RELATIONS = 300  # how much the threshold of all pairs weighs beside that of a type
RIDGE = 4.0  # pulls the bias of a pair type to the shared one: a prior of half a logit
WEAK_RIDGE = 1e-3  # pulls scale and shared bias to 1 and 0: finite if data are separable
MIN_SCALE = 1e-2  # a model that orders pairs worse than chance must not be turned round
MAX_STEPS = 100


def fit_decision(pairs: ScoredPairs, schema: RelationSchema, metric: str) -> Decision:
    """The calibration and the thresholds that fit these pairs and their gold labels, for the
    highest F1 of a metric.

    The logit of `related` gets one scale, and a bias for each pair type that has MIN_GROUP_SIZE
    related and as many unrelated pairs, by logistic regression (Platt 1999, with a ridge in place
    of his softened targets). That of `novel` gets a scale and a bias, from the related pairs:
    novelty is soon learnt by heart, and then far too sure. Then one threshold for all pairs is
    chosen by the micro F1 on these pairs, and from it one for each relation type that has
    MIN_GROUP_SIZE gold relations. A threshold is one of the probability that a relation is right in
    everything the metric checks: the best F1 is reached by predicting whatever is right with a
    probability of at least half that F1 (Lipton, Elkan and Narayanaswamy, ECML 2014).

    A pair whose relation type is illegal for it (UNLABELLED) is related, and no predicted type is
    right for it. Gold relations that no candidate holds are not seen here. Where all
    pairs are related, or none is, nothing can be learnt: probabilities stay as they are, and so
    do thresholds with fewer than `MIN_GROUP_SIZE` relations in all.
    """
    related = pairs.relation_labels != 0
    if related.all() or not related.any():
        return Decision()
    calibration = _fit_calibration(pairs, related)
    if related.sum() < MIN_GROUP_SIZE:
        return calibration
    decision = replace(calibration, novelty=_fit_novelty(pairs), metric=metric)
    thresholds = _fit_thresholds(decision.calibrated(pairs), schema, metric)
    return replace(decision, thresholds=thresholds)


def cross_fitted(
    pairs: ScoredPairs, schema: RelationSchema, metric: str, folds: int = 5
) -> tuple[list[tuple[Relation, ...]], ScoredPairs]:
    """The relations of each document and the calibrated pairs, each document decided by what the
    documents of the other folds gave.

    So a score of these relations is not one of thresholds that were chosen on the same documents.
    Document i is in fold i mod `folds`. With fewer than two documents a fold, nothing is fitted.
    """
    if pairs.num_documents < 2 * folds:
        decision = Decision()
        return decide(pairs, decision, schema), decision.calibrated(pairs)
    relations: list[tuple[Relation, ...]] = [()] * pairs.num_documents
    related, novel = np.zeros(len(pairs)), np.zeros(len(pairs))
    for fold in range(folds):
        inside = pairs.documents % folds == fold
        decision = fit_decision(pairs.of(~inside), schema, metric)
        held = pairs.of(inside)
        relations[fold::folds] = decide(held, decision, schema)[fold::folds]
        calibrated = decision.calibrated(held)
        related[inside], novel[inside] = calibrated.related, calibrated.novel
    return relations, replace(pairs, related=related, novel=novel)


@dataclass(frozen=True, slots=True)
class Reliability:
    """How often what is said to be likely is so, in bins of equal width.

    `predicted` (B,) is the mean probability in a bin, `observed` (B,) the share that is so, both
    nan in an empty one; `counts` (B,) are its pairs. `ece` is the expected calibration error, the
    mean of |observed - predicted| weighted by counts (Naeini, Cooper and Hauskrecht, AAAI 2015;
    Guo et al., ICML 2017).
    """

    predicted: np.ndarray
    observed: np.ndarray
    counts: np.ndarray
    ece: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, of the bins that are not empty."""
        bins = zip(self.counts, self.predicted.tolist(), self.observed.tolist(), strict=True)
        return {
            "ece": round(self.ece, 4),
            "bins": [
                {"pairs": int(count), "predicted": round(p, 4), "observed": round(o, 4)}
                for count, p, o in bins
                if count
            ],
        }


def reliability(probability: np.ndarray, true: np.ndarray, bins: int = 10) -> Reliability:
    """Probabilities (P,) beside what is true (P,). A bin holds its upper end and not its lower;
    the first holds 0 too.

    >>> reliability(np.array([0.2, 0.2, 0.9]), np.array([True, False, True]), bins=2).ece
    0.2333333333333333
    """
    place = np.clip(np.ceil(probability * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(place, probability, bins) / counts
        observed = np.bincount(place, true.astype(np.float64), bins) / counts
    gaps = np.nan_to_num(np.abs(observed - predicted))
    return Reliability(predicted, observed, counts, float(gaps @ counts / max(counts.sum(), 1)))


def reliabilities(pairs: ScoredPairs) -> dict[str, Reliability]:
    """How far pairs can be trusted to be `related`; and those that are, to be of their likeliest
    `type` and to have their `novelty`, where gold and model say so."""
    typed = pairs.relation_labels > 0
    told = ~np.isnan(pairs.gold_novel) & ~np.isnan(pairs.novel)
    return {
        "related": reliability(pairs.related, pairs.relation_labels != 0),
        "type": reliability(
            pairs.types.max(1, initial=0.0)[typed], pairs.right["pair_type"][typed]
        ),
        "novelty": reliability(pairs.novel[told], pairs.gold_novel[told] == 1),
    }


def _fit_calibration(pairs: ScoredPairs, related: np.ndarray) -> Decision:
    """The scale and the biases of `related`, without thresholds."""
    kinds = np.array(pairs.pair_types)
    own = [
        str(kind)
        for kind in np.unique(kinds)
        if min((kinds == kind)[related].sum(), (kinds == kind)[~related].sum()) >= MIN_GROUP_SIZE
    ]
    columns = [logit(pairs.related), np.ones(len(pairs)), *(kinds == kind for kind in own)]
    ridge = np.array([WEAK_RIDGE, WEAK_RIDGE, *[RIDGE] * len(own)])
    scale, shared, *differences = _scale_and_biases(columns, related, ridge)
    biases = {kind: shared + more for kind, more in zip(own, differences, strict=True)}
    return Decision(scale, {OTHERS: shared, **biases})


def _fit_novelty(pairs: ScoredPairs) -> tuple[float, float]:
    """The scale and the bias of the logit of `novel`."""
    known = ~np.isnan(pairs.novel) & ~np.isnan(pairs.gold_novel)
    novel = pairs.gold_novel[known] == 1
    if min(novel.sum(), (~novel).sum()) < MIN_GROUP_SIZE:
        return Decision().novelty
    columns = [logit(pairs.novel[known]), np.ones(len(novel))]
    scale, bias = _scale_and_biases(columns, novel, np.full(2, WEAK_RIDGE))
    return scale, bias


def _scale_and_biases(
    columns: Sequence[np.ndarray], targets: np.ndarray, ridge: np.ndarray
) -> list[float]:
    """(K,) weights of a logistic regression: the scale of the first column, biases of the rest."""
    inputs, wanted = np.stack(columns, axis=1).astype(np.float64), targets.astype(np.float64)
    start = np.array([1.0, *[0.0] * (len(columns) - 1)])
    values = _logistic(inputs, wanted, np.zeros(len(wanted)), ridge, start)
    if values[0] < MIN_SCALE:
        fixed = MIN_SCALE * inputs[:, 0]
        others = _logistic(inputs[:, 1:], wanted, fixed, ridge[1:], start[1:])
        values = np.r_[MIN_SCALE, others]
    return values.tolist()


def _logistic(
    inputs: np.ndarray, targets: np.ndarray, fixed: np.ndarray, ridge: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """The values (K,) that minimise cross-entropy of sigmoid(inputs (P, K) · values + fixed (P,))
    plus ridge/2 · (values - start)², by Newton steps that are halved until they help."""

    def loss(values: np.ndarray) -> float:
        z = inputs @ values + fixed
        return float((np.logaddexp(0, z) - targets * z).sum() + ridge @ (values - start) ** 2 / 2)

    values, now = start, loss(start)
    for _ in range(MAX_STEPS):
        p = sigmoid(inputs @ values + fixed)
        slope = inputs.T @ (p - targets) + ridge * (values - start)
        curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + np.diag(ridge)
        step = np.linalg.solve(curvature, slope)
        while loss(values - step) > now and np.abs(step).max() > 1e-9:
            step = step / 2
        if np.abs(step).max() <= 1e-9:
            break
        values = values - step
        now = loss(values)
    return values


def _fit_thresholds(pairs: ScoredPairs, schema: RelationSchema, metric: str) -> dict[str, float]:
    """The threshold of each relation type with enough data, and under OTHERS that of all pairs.

    A type's own threshold chosen by F1 is noisy: on data of BioRED Dev's size it loses more than
    it wins. So it is the mean of its own and the shared one, weighted by the type's gold relations
    and by `SHARED_RELATIONS`.
    """
    gold = pairs.relation_labels != 0
    likeliest = pairs.types.argmax(1)
    confidence, right = pairs.confidence(metric), pairs.right[metric]
    totals = [int((pairs.relation_labels == 1 + t).sum()) for t in range(pairs.types.shape[1])]
    own = [t for t, total in enumerate(totals) if total >= MIN_GROUP_SIZE]
    groups = {t: likeliest == t for t in own} | {-1: ~np.isin(likeliest, own)}
    alone = _best_cuts(groups, confidence, right, int(gold.sum()))
    shared = _best_cuts({-1: np.ones_like(gold)}, confidence, right, int(gold.sum()))[-1]
    return {OTHERS: shared} | {
        schema.relation_types[t]: (totals[t] * alone[t] + SHARED_RELATIONS * shared)
        / (totals[t] + SHARED_RELATIONS)
        for t in own
    }


def _best_cuts(
    groups: Mapping[int, np.ndarray], probability: np.ndarray, right: np.ndarray, num_gold: int
) -> dict[int, float]:
    """The thresholds of groups of pairs that make F1 = 2 · tp / (predicted + gold) largest.

    For a given F1 each group can choose alone, by the cut that makes 2 · tp - F1 · predicted
    largest; the F1 of these cuts is the next given, and where it no longer grows it is the highest
    there is (Dinkelbach 1967). A threshold is half-way from the last probability in to the first
    out.
    """
    cuts = {name: _cuts(probability[inside], right[inside]) for name, inside in groups.items()}
    f1 = -1.0
    while True:
        best = {name: int(np.argmax(2 * tp - f1 * n)) for name, (_, tp, n) in cuts.items()}
        tp = sum(cuts[name][1][place] for name, place in best.items())
        predicted = sum(cuts[name][2][place] for name, place in best.items())
        reached = float(2 * tp / (predicted + num_gold))
        if reached <= f1:
            return {name: float(cuts[name][0][place]) for name, place in best.items()}
        f1 = reached


def _cuts(probability: np.ndarray, right: np.ndarray) -> Sequence[np.ndarray]:
    """All thresholds that make a difference, from none in to all in: the threshold, how many of
    the pairs in are right, and how many are in."""
    order = np.argsort(-probability, kind="stable")
    falling = np.r_[1 + 1e-9, probability[order], -1e-9]  # none reaches the first, all the last
    last_of_equals = np.flatnonzero(np.diff(falling) < 0)
    num_right = np.r_[0, np.cumsum(right[order])]
    thresholds = (falling[last_of_equals] + falling[last_of_equals + 1]) / 2
    return thresholds, num_right[last_of_equals], last_of_equals
