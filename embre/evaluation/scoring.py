"""Scores of predicted relations against gold, counted as by the official BioRED scorer."""

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace

from embre.document import Document, Relation
from embre.refused import Refused
from embre.relation_schema import RelationSchema
from embre.tally import Tally

TITLES = {
    "pair": "pair",
    "pair_type": "pair + type",
    "pair_novelty": "pair + novelty",
    "all": "pair + type + novelty",
}
# Column headers.
SHORT = {"pair": "pair", "pair_type": "+ type", "pair_novelty": "+ novelty", "all": "all"}
METRICS = tuple(TITLES)
# Metrics that mean nothing for a model trained on one task (`pairs.tasks`).
NOT_LEARNT = {"relation": {"pair_novelty", "all"}, "novelty": {"pair_type", "all"}}
# Raise it when `score` changes, or how fine-tuning decides on the held-out documents.
PROTOCOL_VERSION = 3


@dataclass(frozen=True, slots=True)
class Score:
    """Relations found (tp), spurious (fp) and missed (fn), summed over all documents (micro).

    >>> round(Score(tp=1163, fp=5884, fn=0).f1, 4)
    0.2833
    """

    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float:
        return self.tp / (self.tp + self.fp) if self.tp else 0.0

    @property
    def recall(self) -> float:
        return self.tp / (self.tp + self.fn) if self.tp else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self.tp else 0.0

    def to_json(self) -> dict[str, float]:
        """Counts and rates as plain numbers."""
        rates = {name: round(getattr(self, name), 4) for name in ("precision", "recall", "f1")}
        return {**asdict(self), **rates}


def score(
    gold: Iterable[Document],
    predicted: Iterable[Document],
    tally: Tally | None = None,
) -> dict[str, Score]:
    """The micro `Score` by metric; see `score_documents`."""
    by_document = score_documents(gold, predicted, tally)
    return {
        metric: Score(
            tp=sum(one.tp for one in scores),
            fp=sum(one.fp for one in scores),
            fn=sum(one.fn for one in scores),
        )
        for metric, scores in by_document.items()
    }


def score_documents(
    gold: Iterable[Document],
    predicted: Iterable[Document],
    tally: Tally | None = None,
) -> dict[str, list[Score]]:
    """The `Score` of each gold document, in order, by metric.

    The relations of a gold document that the prediction lacks count as missed; the official scorer
    skips the document, as `only_predicted` does. Predicted documents that gold lacks are left out.
    Both kinds are counted in `tally`. All relations count: first remove those that the corpus does
    not annotate, on both sides (`only_scored`).
    If neither side states the novelty of a relation, the metrics with novelty equal those without.
    If only one side does, it is wrong: the official scorer compares strings, and a missing novelty
    differs from `Novel`. Matches, errors and curves are counted in the same way.
    Raises Refused if a side has two documents of one id.
    """
    tally = tally or Tally()
    gold_docs, predicted_docs = _by_id(gold, "gold"), _by_id(predicted, "predicted")
    for doc_id in sorted(gold_docs.keys() - predicted_docs.keys()):
        tally.drop("gold_document/not_predicted", doc_id)
    for doc_id in sorted(predicted_docs.keys() - gold_docs.keys()):
        tally.drop("predicted_document/not_in_gold", doc_id)

    by_document: dict[str, list[Score]] = {metric: [] for metric in METRICS}
    for doc_id, doc in gold_docs.items():
        predicted_doc = predicted_docs.get(doc_id)
        relations = predicted_doc.relations if predicted_doc else ()
        positive, true = _facts(relations), _facts(doc.relations)
        for metric in METRICS:
            by_document[metric].append(
                Score(
                    tp=len(true[metric] & positive[metric]),
                    fp=len(positive[metric] - true[metric]),
                    fn=len(true[metric] - positive[metric]),
                )
            )
    return by_document


def learnt_metrics(schema: RelationSchema, tasks: str) -> tuple[str, ...]:
    """The metrics of the tasks that a run has learnt, the strictest last. `schema` is that of the
    scored corpus, `tasks` the run's `pairs.tasks`.

    Only these are shown, logged and compared: the F1 of a task that was not learnt is 0, or in a
    corpus without novelty equals another metric, and would be mistaken for a result.
    """
    lacking = NOT_LEARNT.get(tasks, set())
    if not schema.novelty:
        lacking = lacking | {"pair_novelty", "all"}
    return tuple(metric for metric in METRICS if metric not in lacking)


def scoring_protocol(schema: RelationSchema) -> str:
    """An identifier of the counting rules under a schema, such as `biored/3f0c9a51d2e4`.

    Scores on the same documents are comparable if it is equal: same legal pairs, meaning of labels,
    unscored pairs and novelty.
    """
    rules = {
        "rules": PROTOCOL_VERSION,
        "legal": {" ".join(pair): sorted(types) for pair, types in schema.legal.items()},
        "label_map": dict(schema.label_map),
        "novelty": schema.novelty,
        "not_scored": sorted(" ".join(pair) for pair in schema.not_scored),
    }
    text = json.dumps(rules, sort_keys=True)
    return f"{schema.name}/{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def only_scored(
    docs: Iterable[Document], not_scored: Collection[tuple[str, str]], tally: Tally, side: str
) -> list[Document]:
    """Remove relations between types that the corpus does not annotate
    (`RelationSchema.not_scored`), as the official scorer does. They are counted in `tally`; `side`
    is `gold` or `predicted`."""
    scored = []
    for doc in docs:
        kept = []
        for relation in doc.relations:
            first, second = relation.pair
            if (first.type, second.type) in not_scored:
                tally.drop(f"{side}_relation/not_scored", doc.doc_id, f"{first} {second}")
            else:
                kept.append(relation)
        scored.append(replace(doc, relations=tuple(kept)))
    return scored


def only_predicted(
    gold: Iterable[Document], predicted: Iterable[Document], tally: Tally
) -> list[Document]:
    """The gold documents that were predicted, as the official scorer counts. The others are counted
    in `tally`."""
    predicted_ids = {doc.doc_id for doc in predicted}
    kept = []
    for doc in gold:
        if doc.doc_id in predicted_ids:
            kept.append(doc)
        else:
            tally.drop("gold_document/not_predicted", doc.doc_id)
    return kept


def floor(gold: Iterable[Document], schema: RelationSchema) -> list[Document]:
    """The trivial baseline: each candidate pair is a relation of its first legal type, novel if the
    corpus annotates novelty. In BioRED: a novel Association."""
    novel = True if schema.novelty else None
    return [
        replace(
            doc,
            relations=tuple(
                Relation(head, tail, schema.first_legal(head, tail), novel)
                for head, tail in schema.candidates(doc)
            ),
        )
        for doc in gold
    ]


def _by_id(docs: Iterable[Document], side: str) -> dict[str, Document]:
    by_id: dict[str, Document] = {}
    for doc in docs:
        if doc.doc_id in by_id:
            raise Refused(
                f"document {doc.doc_id} occurs twice among the {side} ones; leave one out"
            )
        by_id[doc.doc_id] = doc
    return by_id


def _facts(relations: Iterable[Relation]) -> dict[str, set[tuple]]:
    """The relations of a document as sets of the tuples that each metric compares."""
    facts: dict[str, set[tuple]] = {metric: set() for metric in METRICS}
    for relation in relations:
        pair = relation.pair
        facts["pair"].add(pair)
        facts["pair_type"].add((*pair, relation.type))
        facts["pair_novelty"].add((*pair, relation.novel))
        facts["all"].add((*pair, relation.type, relation.novel))
    return facts
