"""Fine-tuning: annotated documents and an encoder → relation model. Builds the parts, trains,
scores the held-out documents."""

import json
from dataclasses import dataclass, replace
from typing import Any

import torch

from embre.calibration import cross_fitted, fit_decision
from embre.checkpoints import Checkpoints
from embre.config import FinetuneConfig
from embre.corpora import write_documents
from embre.decode import score_pairs
from embre.document import Document
from embre.document_loader import DocumentLoader
from embre.durable import commit, flush, move_into_place, sync
from embre.encoder import check_length, load_encoder
from embre.engine import Engine
from embre.engines import build_engine
from embre.evaluation import evaluate_documents, write_evaluation
from embre.job import LINEAGE, Job, folder_digest, read_lineage
from embre.model_card import write_relation_card
from embre.pairs import PairEncoder
from embre.relation_folder import LoadedModel, save_relation_model
from embre.relation_model import RelationModel
from embre.report import write_report
from embre.scored_pairs import Decision, ScoredPairs, dealt_together
from embre.scoring import Score, counting, floor, learnt_metrics, score
from embre.tally import Tally
from embre.tokenization import load_tokenizer
from embre.tracking import Tracker
from embre.tracking.runs import best_effort, log_files, log_results, metric_sender, sent_step
from embre.train import train
from embre.training_corpora import check_corpora, read_also, read_annotated, schemas_of
from embre.world import World

RELATION_MODEL = "relation_model"
SCORES = "scores.json"
PREDICTED = "dev_predicted.PubTator"
REPORT = "report.html"
EVALUATION_FOLDER = "evaluation"


def finetune(job: Job[FinetuneConfig], world: World) -> None:
    """One rank of a fine-tuning run, from its newest checkpoint to the scored relation model."""
    config, lost, dev_lost = job.config, Tally(), Tally()
    torch.manual_seed(config.seed)
    schema, *others = schemas_of(config.data)
    docs = read_annotated(config.data.train, schema, lost)
    dev_docs = read_annotated(config.data.dev, schema, dev_lost)
    also = read_also(config.data, others, dev_docs, lost)
    tokenizer = load_tokenizer(config.encoder.path)
    encoder = PairEncoder.build(tokenizer, schema, config.data.max_document_tokens, config.pairs)
    loader = DocumentLoader(docs, encoder, config.data, config.seed, world, lost, also)
    model = RelationModel(
        load_encoder(config.encoder, tokenizer),
        config.pairs,
        len(schema.labels),
        encoder.tokenizer.vocabulary,
        config.encoder.precision == "bf16",
    )
    engine = build_engine(config, model, model.loss_weights, world, loader.per_rank, job.folder)
    fingerprint = job.fingerprint(*digests(config).values())
    checkpoints = Checkpoints(
        job.folder / "checkpoints", world, fingerprint, config.train.keep_checkpoints
    )
    learnt = docs + [doc for others, _ in also for doc in others]
    dev = Held(dev_docs, learnt, encoder, world)
    sent = sent_step(job.folder)
    with metric_sender(job.handle if world.rank == 0 else None, job.folder) as send:
        tracker = Tracker(job.folder, world, config.train.log_every_steps, send, sent=sent)
        train(engine, loader, checkpoints, tracker, config.train, config.optimizer, dev.validate)
    not_used = {"train": dict(lost.counts), "dev": dict(dev_lost.counts)}
    finish(engine, dev, job, not_used)


@dataclass(frozen=True, slots=True)
class Held:
    """The documents a run is scored on, and those that it learns from."""

    docs: list[Document]
    training: list[Document]
    encoder: PairEncoder
    world: World

    def loaded(self, engine: Engine, decision: Decision) -> LoadedModel:
        """The model as it is now."""
        model = engine.module
        assert isinstance(model, RelationModel)
        return LoadedModel(model, self.encoder, decision)

    def scored(self, engine: Engine) -> ScoredPairs:
        """All their pairs by the weights as they are, on every rank; each reads its share."""
        mine = self.docs[self.world.rank :: self.world.size]
        found = score_pairs(self.loaded(engine, Decision()), mine, Tally())
        return dealt_together(self.world.gather(found))

    def predicted(self, scored: ScoredPairs) -> tuple[list[Document], ScoredPairs]:
        """All of them with the relations of decisions that were fitted to other documents, and the
        pairs calibrated alike."""
        found, calibrated = cross_fitted(scored, self.encoder.schema)
        docs = [replace(doc, relations=r) for doc, r in zip(self.docs, found, strict=True)]
        return docs, calibrated

    def score(self, predicted: list[Document]) -> dict[str, Score]:
        """Under the official counting, by the metrics that are learnt; pairs that the corpus does
        not annotate do not count."""
        found = score(self.docs, predicted, not_scored=self.encoder.schema.not_scored)
        learnt = learnt_metrics(self.encoder.schema, self.encoder.config.tasks)
        return {metric: found[metric] for metric in learnt}

    @property
    def gold(self) -> list[Document]:
        """What predictions are judged by, one by one: without the novelty that a model of relations
        alone never states, or each of its relations would be wrong."""
        if self.encoder.config.tasks != "relation":
            return self.docs
        return [
            replace(doc, relations=tuple(replace(r, novel=None) for r in doc.relations))
            for doc in self.docs
        ]

    def validate(self, engine: Engine) -> dict[str, float]:
        """The F1 that are learnt, under the official counting."""
        predicted, _ = self.predicted(self.scored(engine))
        scores = self.score(predicted)
        return {f"f1/{name}": found.f1 for name, found in scores.items()}


def finish(
    engine: Engine, dev: Held, job: Job[FinetuneConfig], not_used: dict[str, dict[str, int]]
) -> None:
    """Write the relation model, what it predicts for the held-out documents, how good that is, and
    the report.

    A collective: every rank calls it, rank 0 writes.
    """
    scored = dev.scored(engine)
    weights = engine.weights()
    if engine.world.rank == 0:
        config, folder = job.config, job.folder
        partial = folder / f"{RELATION_MODEL}.partial"
        schema = dev.encoder.schema
        decision = fit_decision(scored, schema)
        save_relation_model(partial, dev.loaded(engine, decision), weights)
        predicted, calibrated = dev.predicted(scored)
        scores = dev.score(predicted)
        lowest = dev.score(floor(dev.docs, schema))
        values = {"dev": table(scores), "floor": table(lowest), "not_used": not_used}
        lineage = {
            "run": config.name,
            **digests(config),
            "counting": counting(schema),
            **({"all_f1": round(scores["all"].f1, 4)} if "all" in scores else {}),
            "encoder": encoder_lineage(config.encoder.path),
        }
        (partial / LINEAGE).write_text(json.dumps(lineage, indent=1))
        write_relation_card(partial, config, schema, values, len(dev.docs))
        move_into_place(partial, folder / RELATION_MODEL)
        write_documents(folder / PREDICTED, predicted, like="pubtator")
        facts = {
            f"F1 {name.replace('_', ' + ')}": f"{found.f1:.3f}" for name, found in scores.items()
        }
        evaluation = evaluate_documents(
            dev.gold,
            predicted,
            schema,
            dev.training,
            calibrated,
            not_scored=schema.not_scored,
        ).of_metrics(tuple(scores))
        written = write_evaluation(folder / EVALUATION_FOLDER, evaluation)
        title = f"{config.name}: held out"
        write_report(folder / REPORT, predicted, dev.gold, title, facts, evaluation)
        flush(folder / EVALUATION_FOLDER)
        sync(folder / REPORT)
        commit(folder / SCORES, json.dumps(values, indent=1).encode())  # last: now all is there
        if job.handle:
            with best_effort("logging the scores"):
                log_results(job.handle, {f"dev/f1/{k}": found.f1 for k, found in scores.items()})
                names = (SCORES, PREDICTED, REPORT)
                log_files(job.handle, [*(folder / name for name in names), *written])
    engine.world.wait()


def check(config: FinetuneConfig) -> dict[str, str]:
    """What must hold before any rank is asked for; returns the digests of the documents.

    Raises FileNotFoundError or ValueError that says what to do.
    """
    if config.engine == "deepspeed" and config.zero_stage == 3:
        raise ValueError(
            "deepspeed.zero_optimization.stage: 3 splits each weight over the ranks and is for "
            "pretraining; fine-tune with 1 or 2"
        )
    load_tokenizer(config.encoder.path)
    check_length(config.encoder, config.data.max_document_tokens)
    check_corpora(config.data)
    if config.pairs.tasks == "novelty" and not schemas_of(config.data)[0].novelty:
        raise ValueError(
            f"pairs.tasks: novelty, and {config.data.corpus.name} states none; set it to relation"
        )
    return digests(config)


def digests(config: FinetuneConfig) -> dict[str, str]:
    """SHA-256 of the annotated documents, by name."""
    paths = {key: getattr(config.data, key) for key in ("train", "dev")}
    paths |= {f"also.{number}": one.train for number, one in enumerate(config.data.also)}
    return {name: folder_digest(path) for name, path in paths.items()}


def encoder_lineage(path: str) -> dict[str, Any]:
    """What the backbone says of its own origin; its weights' digest in any case."""
    return {**read_lineage(path), "digest": folder_digest(path)}


def table(scores: dict[str, Score]) -> dict[str, dict[str, float]]:
    """Scores as plain numbers."""
    return {
        name: {
            "tp": found.tp,
            "fp": found.fp,
            "fn": found.fn,
            "precision": round(found.precision, 4),
            "recall": round(found.recall, 4),
            "f1": round(found.f1, 4),
        }
        for name, found in scores.items()
    }
