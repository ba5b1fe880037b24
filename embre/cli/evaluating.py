"""What `embre evaluate` and `embre report` print and write."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
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
from embre.relations.training_corpora import (
    refuse_gaps,
    refuse_unknown_labels,
    schemas_of,
)
from embre.tally import Tally


@dataclass(frozen=True, slots=True)
class Request:
    """The files to read, and the folder to write where more than a table is wanted. `config` is
    of the fine-tuning run that predicted: gold is then read in the words of its corpus."""

    gold: Path
    pred: Path
    train: Path | None = None
    out: Path | None = None
    other: Path | None = None
    official: bool = False
    every_pair: bool = False
    config: Path | None = None


class ScoringProtocol(NamedTuple):
    """How relations are counted: gold is read in the words of `schema`, if there is one, and pairs
    of the types in `not_scored` are left out."""

    schema: RelationSchema | None
    not_scored: Collection[tuple[str, str]]

    @classmethod
    def from_config(cls, config: Path | None, every_pair: bool) -> "ScoringProtocol":
        """As the run of a config counts; else as BioRED does, or with every pair."""
        if config is None:
            return cls(None, () if every_pair else NOT_SCORED)
        if every_pair:
            raise Refused("--every-pair and --config both say which pairs count; give one")
        schema = schemas_of(load_config(FinetuneConfig, config).data)[0]
        return cls(schema, schema.not_scored)

    def counted(self, docs: list[Document], tally: Tally, side: str) -> list[Document]:
        """The documents with the relations that count."""
        return only_scored(docs, self.not_scored, tally, side)

    def remark(self, dropped: int) -> Iterator[str]:
        """What to say of gold relations that are not scored."""
        if dropped and self.schema is None:
            yield (
                "the official counting leaves out Disease-Disease, Gene-Variant and Gene-Species, "
                "which BioRED does not annotate; for another corpus give --every-pair"
            )


def run_evaluation(request: Request) -> Iterator[RenderableType]:
    """The four metrics with their intervals; a comparison and files where asked for."""
    tally, protocol = Tally(), ScoringProtocol.from_config(request.config, request.every_pair)
    schema = protocol.schema
    gold, predicted = _scored(request.gold, tally, schema), _scored(request.pred, tally)
    other = _scored(request.other, tally) if request.other else None
    training = _read(request.train, Tally(), schema) if request.train else None
    num_relations = sum(len(doc.relations) for doc in gold)
    gold = protocol.counted(gold, tally, "gold")
    predicted = protocol.counted(predicted, tally, "predicted")
    num_documents = len(gold)
    if request.official:
        gold = only_predicted(gold, predicted, tally)
    if not gold:
        raise Refused(f"no document of {request.gold} was predicted")
    scores, counts = score(gold, predicted, tally), document_counts(gold, predicted)
    yield evaluation_table(scores, {metric: interval(found) for metric, found in counts.items()})
    dropped = tally.counts["gold_relation/not_scored"]
    yield f"{num_documents} gold documents, {num_relations:,} relations; {dropped} are not scored"
    yield from protocol.remark(dropped)
    silent = [side for side, docs in (("gold", gold), ("pred", predicted)) if not _says_novel(docs)]
    if silent:
        yield f"{' and '.join(silent)} without novelty: look at the two metrics without it"
    if other is not None:
        other = protocol.counted(other, Tally(), "other")
        both = only_predicted(gold, other, Tally()) if request.official else gold
        yield ""
        yield comparison_table(_compare(both, predicted, other))
    if request.out is not None:
        evaluation = evaluate_documents(gold, predicted, schema, training=training)
        paths = write_evaluation(request.out, evaluation)
        report = request.out / REPORT
        write_report(report, predicted, gold, request.pred.name, evaluation=evaluation)
        yield Text(f"{', '.join(path.name for path in [*paths, report])} in {request.out}")
    yield from dropped_lines(tally.lines())


def run_report(
    pred: Path, out: Path, gold: Path | None, config: Path | None, every_pair: bool
) -> Iterator[RenderableType]:
    """Write the curator's page, with scores where there is gold to count by."""
    tally, protocol = Tally(), ScoringProtocol.from_config(config, every_pair)
    if gold is None and (config or every_pair):
        raise Refused("--config and --every-pair say how to count against --gold; give it too")
    annotated = _scored(gold, tally, protocol.schema) if gold else None
    predicted = list(_documents(pred, tally))
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
