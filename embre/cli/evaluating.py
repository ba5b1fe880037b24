"""What `embre evaluate` and `embre report` print and write."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import RenderableType
from rich.text import Text

from embre.config import FinetuneConfig, load_config
from embre.corpora import read_documents
from embre.corpora.biored import NOT_SCORED
from embre.document import Document
from embre.evaluation.bootstrap import document_counts, f1_of, interval, paired_p_value
from embre.evaluation.evaluate import evaluate_documents, write_evaluation
from embre.evaluation.report import write_report
from embre.evaluation.scoring import TITLES, only_predicted, only_scored, score
from embre.finetune import REPORT
from embre.launch.tables import comparison_table, dropped_lines, evaluation_table
from embre.prediction.record import outputs_in
from embre.refused import Refused
from embre.relation_schema import RelationSchema
from embre.relations.corpus_checks import refuse_gaps, refuse_unknown_labels
from embre.relations.training_corpora import schemas_of
from embre.tally import Tally


class ScoringProtocol(NamedTuple):
    """How relations are scored: labels of gold are mapped to those of `schema`, if there is one,
    and pairs of the entity types in `not_scored` are left out."""

    schema: RelationSchema | None
    not_scored: Collection[tuple[str, str]]

    @classmethod
    def from_config(cls, config: Path | None, every_pair: bool) -> "ScoringProtocol":
        """The protocol of a fine-tuning config; without one BioRED's, or every pair."""
        if config is None:
            return cls(None, () if every_pair else NOT_SCORED)
        if every_pair:
            raise Refused("--every-pair and --config both choose which pairs are scored; give one")
        schema = schemas_of(load_config(FinetuneConfig, config).data)[0]
        return cls(schema, schema.not_scored)

    def counted(self, docs: list[Document], tally: Tally, side: str) -> list[Document]:
        """The documents with the relations that are scored."""
        return only_scored(docs, self.not_scored, tally, side)

    def remark(self, dropped: int) -> Iterator[str]:
        """A hint if gold relations are not scored."""
        if dropped and self.schema is None:
            yield (
                "the official scorer leaves out Disease-Disease, Gene-Variant and Gene-Species, "
                "which BioRED does not annotate; for another corpus give --every-pair"
            )


def run_evaluation(
    gold_path: Path,
    pred_path: Path,
    *,
    train: Path | None = None,
    out: Path | None = None,
    other_path: Path | None = None,
    official: bool = False,
    every_pair: bool = False,
    config: Path | None = None,
) -> Iterator[RenderableType]:
    """Yield the four metrics with intervals, and a comparison with the predictions of `other_path`.

    Writes all numbers to `out`, if given. `config` is that of the fine-tuning run that predicted.
    """
    if train is not None and out is None:
        raise Refused("--train needs --out, the folder for the scores of seen and unseen concepts")
    tally, protocol = Tally(), ScoringProtocol.from_config(config, every_pair)
    schema = protocol.schema
    gold, predicted = _scored(gold_path, tally, schema), _scored(pred_path, tally)
    other = _scored(other_path, tally) if other_path else None
    training = _read(train, Tally(), schema) if train else None
    num_relations = sum(len(doc.relations) for doc in gold)
    gold = protocol.counted(gold, tally, "gold")
    predicted = protocol.counted(predicted, tally, "predicted")
    num_documents = len(gold)
    if official:
        gold = only_predicted(gold, predicted, tally)
    if not gold:
        raise Refused(f"no document of {gold_path} was predicted")
    scores, counts = score(gold, predicted, tally), document_counts(gold, predicted)
    yield evaluation_table(scores, {metric: interval(found) for metric, found in counts.items()})
    dropped = tally.counts["gold_relation/not_scored"]
    yield f"{num_documents} gold documents, {num_relations:,} relations; {dropped} are not scored"
    yield from protocol.remark(dropped)
    silent = [side for side, docs in (("gold", gold), ("pred", predicted)) if not _says_novel(docs)]
    if silent:
        yield f"{' and '.join(silent)} without novelty: ignore the two metrics with novelty"
    if other is not None:
        other = protocol.counted(other, Tally(), "other")
        both = only_predicted(gold, other, Tally()) if official else gold
        yield ""
        yield comparison_table(_compare(both, predicted, other))
    if out is not None:
        evaluation = evaluate_documents(gold, predicted, schema, training=training)
        paths = write_evaluation(out, evaluation)
        report = out / REPORT
        write_report(report, predicted, gold, pred_path.name, evaluation=evaluation)
        yield Text(f"{', '.join(path.name for path in [*paths, report])} in {out}")
    yield from dropped_lines(tally.lines())


def run_report(
    pred: Path, out: Path, gold: Path | None, config: Path | None, every_pair: bool
) -> Iterator[RenderableType]:
    """Write the report for curators, with scores if there is gold."""
    tally, protocol = Tally(), ScoringProtocol.from_config(config, every_pair)
    if gold is None and (config or every_pair):
        raise Refused("--config and --every-pair choose how --gold is scored; give it too")
    annotated = _scored(gold, tally, protocol.schema) if gold else None
    predicted = _read(pred, tally)
    facts = {}
    if annotated:
        refuse_gaps(tally, str(pred))
        annotated = protocol.counted(annotated, tally, "gold")
        predicted = protocol.counted(predicted, tally, "predicted")
        scores = score(annotated, predicted, tally=tally)
        facts = {f"F1 {TITLES[metric]}": f"{found.f1:.3f}" for metric, found in scores.items()}
    write_report(out, predicted, annotated, title=pred.name, facts=facts)
    yield Text(f"{out}: {len(predicted)} documents")
    yield from protocol.remark(tally.counts["gold_relation/not_scored"])
    yield from dropped_lines(tally.lines())


def _documents(path: Path, tally: Tally) -> Iterator[Document]:
    """The documents of a file or folder. Of an output folder of `embre predict` those of its
    outputs: what a killed run left beside them is no prediction."""
    files = outputs_in(path)
    for file in [path] if files is None else files:
        yield from read_documents(file, tally)


def _scored(path: Path, tally: Tally, schema: RelationSchema | None = None) -> list[Document]:
    """As `_read`; Refused too if a document may be missing."""
    docs = _read(path, tally, schema)
    refuse_gaps(tally, str(path))
    return docs


def _read(path: Path, tally: Tally, schema: RelationSchema | None = None) -> list[Document]:
    docs = list(_documents(path, tally))
    if not docs:
        raise Refused(f"{path}: no document in it")
    if schema is None:
        return docs
    refuse_unknown_labels(docs, schema, str(path))
    return [schema.normalise(doc, tally) for doc in docs]


def _says_novel(docs: list[Document]) -> bool:
    return any(relation.novel is not None for doc in docs for relation in doc.relations)


def _compare(
    gold: list[Document], predicted: list[Document], other: list[Document]
) -> dict[str, tuple[float, float, float]]:
    """Of each metric the F1 of both and the p-value of the difference, over the same documents."""
    ours, theirs = document_counts(gold, predicted), document_counts(gold, other)
    return {
        metric: (
            float(f1_of(ours[metric].sum(0))),
            float(f1_of(theirs[metric].sum(0))),
            paired_p_value(ours[metric], theirs[metric]),
        )
        for metric in ours
    }
