"""Fitting of calibration and thresholds to scored pairs with gold labels.

Shapes: P pairs, K fitted parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from embre.document import Relation
from embre.relation_schema import RelationSchema
from embre.relations.scored_pairs import OTHERS, Decision, ScoredPairs, decide, logit, sigmoid

MIN_GROUP_SIZE = 30  # pairs or relations of a type, to fit a parameter for it
SHARED_RELATIONS = 300  # weight of the shared threshold beside that of a type
RIDGE = 4.0  # pulls the bias of a pair type to the shared one: a prior with deviation 1/2 logit
WEAK_RIDGE = 1e-3  # pulls scale to 1 and shared bias to 0, so they are finite on separable data
MIN_SCALE = 1e-2  # a model that ranks worse than chance must not be inverted
MAX_STEPS = 100  # of Newton's method
FOLDS = 5


def fit_decision(pairs: ScoredPairs, schema: RelationSchema, metric: str) -> Decision:
    """Fit calibration and thresholds to pairs with gold labels, for the maximum F1 of a metric.

    The logit of `related` gets a scale, and a bias for each pair type with at least MIN_GROUP_SIZE
    related and MIN_GROUP_SIZE unrelated pairs, by logistic regression (Platt 1999, with a ridge in
    place of his softened targets). That of `novel` gets a scale and a bias, fitted on the related
    pairs: novelty overfits early and is then overconfident. Then a shared threshold is chosen by
    micro F1 on these pairs, and one for each relation type with MIN_GROUP_SIZE gold relations.
    Thresholds apply to the probability that everything the metric checks is right: the maximum F1
    is reached by predicting whatever is right with a probability of at least half that F1 (Lipton,
    Elkan and Narayanaswamy, ECML 2014).

    A pair whose gold type is illegal for it (UNLABELLED) is related, and no predicted type is right
    for it. Gold relations that are not candidates are ignored. If all pairs are related, or none,
    the default decision is returned; with fewer than MIN_GROUP_SIZE relations in all, only the
    calibration of `related` is fitted.
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
    pairs: ScoredPairs, schema: RelationSchema, metric: str
) -> tuple[list[tuple[Relation, ...]], ScoredPairs]:
    """Predict the relations of each document, and calibrate its pairs, by cross-fitting.

    The decision for a fold is fitted on the other folds, so thresholds are never scored on the
    documents that they were chosen on. Document i is in fold i mod FOLDS. With fewer than two
    documents per fold, the default decision is used.
    """
    if pairs.num_documents < 2 * FOLDS:
        decision = Decision()
        return decide(pairs, decision, schema), decision.calibrated(pairs)
    relations: list[tuple[Relation, ...]] = [()] * pairs.num_documents
    related, novel = np.zeros(len(pairs)), np.zeros(len(pairs))
    for fold in range(FOLDS):
        inside = pairs.documents % FOLDS == fold
        decision = fit_decision(pairs.subset(~inside), schema, metric)
        held = pairs.subset(inside)
        relations[fold::FOLDS] = decide(held, decision, schema)[fold::FOLDS]
        calibrated = decision.calibrated(held)
        related[inside], novel[inside] = calibrated.related, calibrated.novel
    return relations, replace(pairs, related=related, novel=novel)


def _fit_calibration(pairs: ScoredPairs, related: np.ndarray) -> Decision:
    """Fit the scale and the biases of `related`; thresholds stay at their defaults."""
    types = np.array(pairs.pair_types)
    fitted = [
        str(name)
        for name in np.unique(types)
        if min((types == name)[related].sum(), (types == name)[~related].sum()) >= MIN_GROUP_SIZE
    ]
    columns = [logit(pairs.related), np.ones(len(pairs)), *(types == name for name in fitted)]
    ridge = np.array([WEAK_RIDGE, WEAK_RIDGE, *[RIDGE] * len(fitted)])
    scale, shared, *differences = _scale_and_biases(columns, related, ridge)
    biases = {name: shared + more for name, more in zip(fitted, differences, strict=True)}
    return Decision(scale, {OTHERS: shared, **biases})


def _fit_novelty(pairs: ScoredPairs) -> tuple[float, float]:
    """Fit the scale and the bias of the logit of `novel`."""
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
    """(K,) weights of a logistic regression: scale of the first column, biases of the others."""
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
    """Values (K,) that minimise the cross-entropy of sigmoid(inputs (P, K) · values + fixed (P,))
    plus ridge/2 · (values - start)², by Newton's method with step halving."""

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
    """Choose thresholds for relation types with enough data, and a shared one under OTHERS.

    A threshold chosen for one type is noisy: on data of BioRED Dev's size it loses more F1 than it
    gains. So it is averaged with the shared one, with the number of gold relations of the type and
    SHARED_RELATIONS as weights.
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
    """The thresholds of groups of pairs that maximise F1 = 2 · tp / (predicted + gold).

    Dinkelbach's algorithm (1967): for a given F1 each group independently maximises
    2 · tp - F1 · predicted; the F1 of these cuts is the next given, until it no longer grows. A
    threshold is midway between the last probability included and the first excluded.
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
    """All distinct cuts, from no pair to all pairs: threshold, true positives, predicted pairs."""
    order = np.argsort(-probability, kind="stable")
    falling = np.r_[1 + 1e-9, probability[order], -1e-9]  # the first includes no pair, the last all
    last_of_equals = np.flatnonzero(np.diff(falling) < 0)
    num_right = np.r_[0, np.cumsum(right[order])]
    thresholds = (falling[last_of_equals] + falling[last_of_equals + 1]) / 2
    return thresholds, num_right[last_of_equals], last_of_equals
