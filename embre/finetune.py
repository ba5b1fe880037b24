"""Fine-tuning: annotated documents and an encoder → relation model.

Builds the parts, trains, and scores the held-out documents.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embre.atomic_files import atomic_folder, fsync_path, fsync_tree, write_atomic
from embre.checkpoints.checkpoints import Checkpoints
from embre.checkpoints.folder import FOLDER
from embre.config import FinetuneConfig
from embre.corpora import write_pubtator
from embre.dev_set import DevSet
from embre.document import Document
from embre.engines.build import build_engine
from embre.engines.engine import Engine
from embre.evaluation.breakdown import Groups
from embre.evaluation.discrimination import Discrimination, discrimination
from embre.evaluation.evaluate import Evaluation, evaluate_documents, write_evaluation
from embre.evaluation.report import write_report
from embre.evaluation.scoring import TITLES, Score, only_scored, scoring_protocol
from embre.job import Job
from embre.model.backbone import check_length, load_encoder
from embre.model_card import write_relation_card
from embre.provenance import LINEAGE, folder_digest, read_lineage
from embre.refused import Refused
from embre.relations.corpus_checks import check_corpora, contamination_warning
from embre.relations.document_loader import DocumentLoader, refuse_idle_ranks
from embre.relations.model import RelationModel, init_markers
from embre.relations.model_folder import LoadedModel, save_relation_model
from embre.relations.pass_builder import PassBuilder
from embre.relations.scored_pairs import ScoredPairs
from embre.relations.training_corpora import read_annotated, read_extra_corpora, schemas_of
from embre.tally import Tally
from embre.tokenization.tokenizer import load_tokenizer
from embre.tracking.sending import log_files, log_results, tracker_of
from embre.train import train
from embre.world import World

log = logging.getLogger(__name__)

RELATION_MODEL = "relation_model"
SCORES = "scores.json"
COUNTS = "dev_counts.json"
PREDICTED = "dev_predicted.PubTator"
REPORT = "report.html"
EVALUATION_FOLDER = "evaluation"


def finetune(job: Job[FinetuneConfig], world: World) -> None:
    """Run one rank of fine-tuning, from the newest checkpoint to the scored relation model."""
    config, lost, dev_lost = job.config, Tally(), Tally()
    torch.manual_seed(config.seed)
    schema, *others = schemas_of(config.data)
    docs = read_annotated(config.data.train, schema, lost)
    dev_docs = read_annotated(config.data.dev, schema, dev_lost)
    dev_docs = only_scored(dev_docs, schema.not_scored, dev_lost, "gold")
    extra_corpora = read_extra_corpora(config.data, others, docs, dev_docs, lost)
    tokenizer = load_tokenizer(config.encoder.path)
    builder = PassBuilder.build(tokenizer, schema, config.data.max_document_tokens, config.pairs)
    loader = DocumentLoader(docs, builder, config.data, config.seed, world, lost, extra_corpora)
    model = RelationModel(
        load_encoder(config.encoder, tokenizer),
        config.pairs,
        len(schema.labels),
        builder.tokenizer.vocabulary,
        config.encoder.precision == "bf16",
    )
    if builder.tokenizer.vocabulary > tokenizer.vocabulary:
        init_markers(model, builder.tokenizer)
    engine = build_engine(config, model, model.loss_weights, world, loader.per_rank, job.folder)
    fingerprint = job.fingerprint(*digests(config).values())
    checkpoints = Checkpoints(
        job.folder / FOLDER, world, fingerprint, config.train.keep_checkpoints
    )
    learnt = docs + [doc for corpus, _ in extra_corpora for doc in corpus]
    dev = DevSet(dev_docs, learnt, builder, world)
    every = config.train.log_every_steps
    with tracker_of(job.handle, job.folder, world, every) as tracker:
        train(engine, loader, checkpoints, tracker, config.train, config.optimizer, dev.validate)
    finish(engine, dev, job, lost, dev_lost)


def finish(
    engine: Engine, dev: DevSet, job: Job[FinetuneConfig], lost: Tally, dev_lost: Tally
) -> None:
    """Score the dev documents and write the results; `lost` and `dev_lost` count dropped items.

    A collective: every rank calls it, rank 0 writes.
    """
    scored = dev.scored(engine, dev_lost)  # validations drop the same items: count them once
    weights = engine.weights()
    if engine.world.rank == 0:
        dropped = {"train": dict(lost.counts), "dev": dict(dev_lost.counts)}
        write_results(job, dev, dev.fitted(engine, scored), weights, scored, dropped)
    engine.world.barrier()


def write_results(
    job: Job[FinetuneConfig],
    dev: DevSet,
    loaded: LoadedModel,
    weights: dict[str, Tensor],
    scored: ScoredPairs,
    dropped: dict[str, dict[str, int]],
) -> None:
    """Write the relation model, its predictions, scores and evaluation of the dev documents, and
    the report. `scored` are the uncalibrated pairs of the dev documents."""
    predicted, calibrated = dev.predicted(scored, dev.metrics[-1])
    scores, counts = dev.score(predicted), dev.counts(scored)
    measures = discrimination(scored)
    evaluation = evaluate_documents(
        dev.gold, predicted, dev.builder.schema, dev.training, calibrated, measures
    ).of_metrics(tuple(scores))
    caution = encoder_contamination(job.config, dev.docs)
    values = {
        "dev": {metric: found.to_json() for metric, found in scores.items()},
        "dev_own_thresholds": {
            metric: Score(*found.sum(0).tolist()).to_json() for metric, found in counts.items()
        },
        "floor": {metric: found.to_json() for metric, found in dev.floor().items()},
        "discrimination": evaluation.discrimination,
        "dropped": dropped,
        **({"contamination_warning": caution} if caution else {}),
    }
    by_type = evaluation.groups.get("relation type", {})
    write_model(job, dev, loaded, weights, values, by_type)
    write_pubtator(job.folder / PREDICTED, predicted)
    written = write_evaluation_files(job, dev, predicted, evaluation, caution)
    of_documents = {metric: found.tolist() for metric, found in counts.items()}
    write_atomic(job.folder / COUNTS, json.dumps(of_documents).encode())
    # Last: a run that has scores is complete.
    write_atomic(job.folder / SCORES, json.dumps(values, indent=1).encode())
    send_results(job, scores, evaluation.discrimination, written)


def send_results(
    job: Job[FinetuneConfig],
    scores: dict[str, Score],
    measured: Discrimination,
    evaluation_files: list[Path],
) -> None:
    """Send F1, discrimination and the files of results to MLflow, if the run has one."""
    if job.handle is None:
        return
    f1 = {f"dev/f1/{name}": found.f1 for name, found in scores.items()}
    measures = {
        f"dev/{measure}/{name}": value
        for name, numbers in measured.items()
        for measure, value in numbers.items()
        if measure != "pairs"
    }
    log_results(job.handle, job.folder, f1 | measures)
    files = [job.folder / name for name in (SCORES, COUNTS, PREDICTED, REPORT)]
    log_files(job.handle, job.folder, [*files, *evaluation_files])


def write_model(
    job: Job[FinetuneConfig],
    dev: DevSet,
    loaded: LoadedModel,
    weights: dict[str, Tensor],
    values: dict[str, Any],
    by_type: Groups,
) -> None:
    """Write the folder of the relation model with its lineage and card, atomically."""
    config, schema = job.config, dev.builder.schema
    backbone = config.encoder.path
    lineage = {
        "run": config.name,
        **digests(config),
        "scoring_protocol": scoring_protocol(schema),
        "encoder": {**read_lineage(backbone), "digest": folder_digest(backbone)},
    }
    with atomic_folder(job.folder / RELATION_MODEL) as folder:
        save_relation_model(folder, loaded, weights)
        (folder / LINEAGE).write_text(json.dumps(lineage, indent=1))
        write_relation_card(folder, config, schema, values, by_type, len(dev.docs))


def write_evaluation_files(
    job: Job[FinetuneConfig],
    dev: DevSet,
    predicted: list[Document],
    evaluation: Evaluation,
    caution: str,
) -> list[Path]:
    """Write the evaluation of the predictions and the HTML report; returns the evaluation's files.

    `caution` is the contamination warning of the encoder, or ''.
    """
    written = write_evaluation(job.folder / EVALUATION_FOLDER, evaluation)
    scores = evaluation.scores
    facts = {f"F1 {TITLES[metric]}": f"{found.f1:.3f}" for metric, found in scores.items()}
    facts |= {"Caution": caution} if caution else {}
    title = f"{job.config.name}: held out"
    write_report(job.folder / REPORT, predicted, dev.gold, title, facts, evaluation)
    fsync_tree(job.folder / EVALUATION_FOLDER)
    fsync_path(job.folder / REPORT)
    return written


def check(config: FinetuneConfig) -> dict[str, str]:
    """Check a run before any rank starts; returns the digests of the documents.

    Raises FileNotFoundError or Refused with the remedy.
    """
    if config.engine == "deepspeed" and config.zero_stage == 3:
        raise Refused(
            "deepspeed.zero_optimization.stage: 3 is only for pretraining; fine-tune with 1 or 2"
        )
    refuse_idle_ranks(config.launch.workers, config.data.micro_batches)
    load_tokenizer(config.encoder.path)
    check_length(config.encoder, config.data.max_document_tokens)
    dev = check_corpora(config.data)
    if caution := encoder_contamination(config, dev):
        log.warning("data.dev: %s; shard again with --hold-out %s", caution, config.data.dev)
    if config.pairs.tasks == "novelty" and not schemas_of(config.data)[0].novelty:
        raise Refused(
            f"pairs.tasks=novelty, but {config.data.corpus.name} "
            "has no novelty labels; set it to relation"
        )
    return digests(config)


def digests(config: FinetuneConfig) -> dict[str, str]:
    """SHA-256 of the annotated documents, by name."""
    paths = {key: getattr(config.data, key) for key in ("train", "dev")}
    paths |= {
        f"extra_corpora.{number}": one.train for number, one in enumerate(config.data.extra_corpora)
    }
    return {name: folder_digest(path) for name, path in paths.items()}


def encoder_contamination(config: FinetuneConfig, dev: list[Document]) -> str:
    """A warning if the encoder may have been pretrained on the dev documents, else ''."""
    encoder = {} if config.encoder.new else read_lineage(config.encoder.path)
    return contamination_warning(encoder, dev, config.data.dev)
