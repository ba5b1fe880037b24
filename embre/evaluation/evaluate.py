"""All measures of predicted documents against gold ones, and the files they are written to."""

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embre.corpora.raw import NOVELTY
from embre.document import Document
from embre.evaluation import breakdown
from embre.evaluation.bootstrap import document_counts, interval
from embre.evaluation.breakdown import Confusion, Error, Groups
from embre.evaluation.discrimination import Discrimination
from embre.evaluation.plots import plot_confusion, plot_curves, plot_reliability
from embre.evaluation.precision_recall import Curve, curve, ranked_pairs, ranked_relations
from embre.evaluation.reliability import Reliability, reliabilities, reliability
from embre.evaluation.scoring import Score, score
from embre.refused import Refused
from embre.relation_schema import RelationSchema
from embre.relations.scored_pairs import ScoredPairs

EVALUATION, ERRORS = "evaluation.json", "errors.tsv"
CURVES, CONFUSION, RELIABILITY = "precision_recall.png", "confusion.png", "reliability.png"
# The metric that each of `reliability` and `discrimination` depends on.
NEEDS = {"related": "pair", "type": "pair_type", "novelty": "pair_novelty"}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of `evaluate_documents`.

    `intervals` are the 95 % intervals of F1 by metric, `groups` the scores by grouping, group and
    metric. `curves` (by metric) and `reliability` (of `related`, `type` and `novelty`) are empty
    without probabilities, `discrimination` if it was not given. If `of_candidates`, curves and
    reliability are over all candidate pairs; otherwise over the predicted relations, with
    `related` only, and ignore what was not predicted.
    """

    num_documents: int
    scores: dict[str, Score]
    intervals: dict[str, tuple[float, float]]
    groups: dict[str, Groups]
    confusion: Confusion
    curves: dict[str, Curve]
    reliability: dict[str, Reliability]
    discrimination: Discrimination
    of_candidates: bool
    errors: list[Error]

    def of_metrics(self, metrics: Collection[str]) -> "Evaluation":
        """A copy with only these metrics and what depends on them."""
        groups = {
            grouping: {
                group: {metric: found for metric, found in by_metric.items() if metric in metrics}
                for group, by_metric in some.items()
            }
            for grouping, some in self.groups.items()
        }
        return replace(
            self,
            scores={metric: found for metric, found in self.scores.items() if metric in metrics},
            intervals={m: found for m, found in self.intervals.items() if m in metrics},
            groups={name: some for name, some in groups.items() if all(some.values())},
            curves={metric: found for metric, found in self.curves.items() if metric in metrics},
            reliability={k: found for k, found in self.reliability.items() if NEEDS[k] in metrics},
            discrimination={
                k: found for k, found in self.discrimination.items() if NEEDS[k] in metrics
            },
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, see docs/FORMATS.md; without the errors, which have their own file."""
        return {
            "documents": self.num_documents,
            "scores": {
                metric: scores.to_json()
                | {"f1_95": [round(end, 4) for end in self.intervals[metric]]}
                for metric, scores in self.scores.items()
            },
            "groups": {
                grouping: {
                    group: {metric: scores.to_json() for metric, scores in by_metric.items()}
                    for group, by_metric in groups.items()
                }
                for grouping, groups in self.groups.items()
            },
            "confusion": {
                "labels": self.confusion.labels,
                "counts": self.confusion.counts.tolist(),
            },
            "of_candidates": self.of_candidates,
            "average_precision": {
                metric: round(found.average_precision, 4) for metric, found in self.curves.items()
            },
            "reliability": {name: found.to_json() for name, found in self.reliability.items()},
            "discrimination": self.discrimination,
        }


def evaluate_documents(
    gold: Sequence[Document],
    predicted: Sequence[Document],
    schema: RelationSchema | None = None,
    training: Sequence[Document] | None = None,
    scored: ScoredPairs | None = None,
    discrimination: Discrimination | None = None,
) -> Evaluation:
    """Compute every measure that there is data for.

    `schema` adds unrelated candidate pairs to the confusion matrix; `training` are the documents
    that the model was trained on; `scored` are the candidate pairs of the gold documents, in
    order, with the probabilities to evaluate (calibrated); `discrimination` is that of the
    uncalibrated ones. All documents and relations count, see `scoring.only_scored` and
    `only_predicted`. Raises Refused if `scored` has another number of documents than gold.
    """
    scores = score(gold, predicted)
    if scored is None:
        ranked = ranked_relations(gold, predicted)
        reliable = {"related": reliability(*ranked["pair"])}
    else:
        ranked, reliable = ranked_pairs(scored), reliabilities(scored)
    curves = {
        metric: curve(confidence, right, scores[metric].tp + scores[metric].fn)
        for metric, (confidence, right) in ranked.items()
        if len(confidence)
    }
    counts = document_counts(gold, predicted)
    return Evaluation(
        num_documents=len(gold),
        scores=scores,
        intervals={metric: interval(found) for metric, found in counts.items()},
        groups=_groups(gold, predicted, training),
        confusion=breakdown.confusion(gold, predicted, schema),
        curves=curves,
        reliability={name: found for name, found in reliable.items() if found.counts.any()},
        discrimination=discrimination or {},
        of_candidates=scored is not None,
        errors=breakdown.errors(gold, predicted, _probabilities(gold, scored)),
    )


def write_evaluation(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Write the measures, the errors and the available plots; return their paths.

    Removes the files of an earlier evaluation first, so no old plot is left beside new numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (EVALUATION, ERRORS, CURVES, CONFUSION, RELIABILITY):
        (folder / name).unlink(missing_ok=True)
    (folder / EVALUATION).write_text(json.dumps(evaluation.to_json(), indent=1))
    with (folder / ERRORS).open("w", encoding="utf-8", newline="") as file:
        rows = [_row(error) for error in evaluation.errors]
        names = list(rows[0]) if rows else ["document", "outcome"]
        writer = csv.DictWriter(file, names, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    plot_confusion(folder / CONFUSION, evaluation.confusion)
    written = [EVALUATION, ERRORS, CONFUSION]
    if evaluation.curves:
        points = {metric: (s.recall, s.precision) for metric, s in evaluation.scores.items()}
        plot_curves(folder / CURVES, evaluation.curves, points)
        written.append(CURVES)
    if evaluation.reliability:
        plot_reliability(folder / RELIABILITY, evaluation.reliability["related"])
        written.append(RELIABILITY)
    return [folder / name for name in written]


def _groups(
    gold: Sequence[Document], predicted: Sequence[Document], training: Sequence[Document] | None
) -> dict[str, Groups]:
    groups = {
        "relation type": breakdown.by_relation_type(gold, predicted),
        "types of the pair": breakdown.by_pair_type(gold, predicted),
        "distance": breakdown.by_distance(gold, predicted),
        "mentions of the rarer concept": breakdown.by_mentions(gold, predicted),
    }
    if training is not None:
        groups["seen in training"] = breakdown.by_seen(gold, predicted, training)
    return groups


def _probabilities(
    gold: Sequence[Document], scored: ScoredPairs | None
) -> Mapping[tuple[str, breakdown.Pair], float]:
    if scored is None:
        return {}
    if scored.num_documents != len(gold):
        raise Refused(
            f"scored pairs of {scored.num_documents} documents for {len(gold)} gold documents"
        )
    return {
        (gold[number].doc_id, pair): probability
        for number, pair, probability in zip(
            scored.documents.tolist(), scored.concepts, scored.related.tolist(), strict=True
        )
    }


def _row(error: Error) -> dict[str, str]:
    novelty = {None: "", **NOVELTY}
    return {
        "document": error.doc_id,
        "outcome": error.outcome,
        "concept 1": str(error.first),
        "name 1": _plain(error.first_name),
        "concept 2": str(error.second),
        "name 2": _plain(error.second_name),
        "gold type": error.gold_type,
        "gold novelty": novelty[error.gold_novel],
        "predicted type": error.predicted_type,
        "predicted novelty": novelty[error.predicted_novel],
        "probability": "" if error.probability is None else f"{error.probability:.4f}",
        "text": _plain(error.text),
    }


def _plain(text: str) -> str:
    return " ".join(text.split())
