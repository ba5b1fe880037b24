"""Pretraining: shards → encoder. Builds the parts, trains, exports."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embre.checkpoints.checkpoints import FOLDER, Checkpoints
from embre.config import ConfigError, PretrainConfig
from embre.durable import whole_folder
from embre.engines.build import build_engine
from embre.engines.engine import Engine
from embre.engines.flops import product_flops_per_s, training_flops_per_token
from embre.job import Job
from embre.model.backbone import check_length, load_encoder
from embre.model.compiling import heavy_parts
from embre.model.concept_table import ConceptTable
from embre.model.encoder_folder import save_entities
from embre.model.heads import EntityHead
from embre.model.identifier_scores import NAMES, frequency_bounds, score_sums, scores
from embre.model.pretraining_model import LOSSES, PretrainingModel
from embre.model.sharded_table import ShardedTable
from embre.model.table_rows import TableRows
from embre.model_card import write_encoder_card
from embre.provenance import LINEAGE
from embre.refused import Refused
from embre.shards.entities import EntityVocabulary, chosen, coverage, read_concepts
from embre.shards.shard_set import ShardSet
from embre.shards.statistics import stored_statistics
from embre.stream.batch import Batch, empty_batch
from embre.stream.order import validation_batches
from embre.stream.source import StreamSource
from embre.stream.stream_loader import StreamLoader
from embre.tokenization.tokenizer import copy_tokenizer, load_tokenizer
from embre.tracking import Tracker, read_events
from embre.tracking.sending import metric_sender, sent_step
from embre.train import train
from embre.world import World

ENCODER, SET_ASIDE = "encoder", "set_aside"


def pretrain(job: Job[PretrainConfig], world: World) -> None:
    """One rank of a pretraining run, from its newest checkpoint to the exported encoder."""
    config = job.config
    torch.manual_seed(config.seed)
    tokenizer = load_tokenizer(config.encoder.path)
    shard_set = ShardSet.open(config.data.shards)
    entities = chosen(shard_set, config)
    set_aside = job.folder / SET_ASIDE
    source = StreamSource.build(
        shard_set, config.data, config.masking, entities, tokenizer, config.seed, set_aside
    )
    loader = StreamLoader(source, world)
    encoder = load_encoder(config.encoder, tokenizer)
    table = concept_table(config, entities.sizes, world)
    head = EntityHead(encoder.config.hidden_size, len(entities.sizes), table)
    half = config.encoder.precision == "bf16"
    model = PretrainingModel(encoder, head, half, heavy_parts(config.encoder, world.device))
    rows = table.rows if isinstance(table, ShardedTable) else None
    weights = config.losses.model_dump()
    engine = build_engine(config, model, weights, world, loader.per_rank, job.folder, rows)
    fingerprint = job.fingerprint(shard_set.manifest.digest, entities.fingerprint)
    checkpoints = Checkpoints(
        job.folder / FOLDER, world, fingerprint, config.train.keep_checkpoints
    )
    sent = sent_step(job.folder)
    handle = job.handle if world.rank == 0 else None
    with closing(loader), metric_sender(handle, job.folder) as send:
        tracker = Tracker(
            job.folder,
            world,
            config.train.log_every_steps,
            send,
            lambda: loader.waited_s,
            sent,
            mfu_of_token_rate(config, encoder.config, shard_set, world),
            source.num_set_aside,
        )
        if world.rank == 0:
            tracker.vocabulary(covered(shard_set, entities))
        train(
            engine,
            loader,
            checkpoints,
            tracker,
            config.train,
            config.optimizer,
            validator(source, world),
        )
    export(engine, entities, rows, job, shard_set.manifest.digest)


def concept_table(
    config: PretrainConfig, sizes: tuple[int, ...], world: World
) -> ConceptTable | ShardedTable:
    """The table of a run: up to `shard_above` concepts one matrix like others, else in shares."""
    wanted = config.entities
    sampling = wanted.sample_above, wanted.sample_share
    if sum(sizes) <= wanted.shard_above:
        return ConceptTable(sizes, wanted.dimension, *sampling)
    rows = TableRows(sizes, wanted.dimension, world, config.optimizer, config.seed)
    return ShardedTable(rows, *sampling)


def mfu_of_token_rate(
    config: PretrainConfig, shape: Any, shard_set: ShardSet, world: World
) -> float:
    """The MFU at one token a second of all ranks, measured by rank 0 against its own product."""
    if world.rank != 0:
        return 0.0
    half = config.encoder.precision == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    flops = flops_per_token(config, shape, shard_set)
    return flops / (product_flops_per_s(world.device, dtype) * world.size)


def flops_per_token(config: PretrainConfig, shape: Any, shard_set: ShardSet) -> float:
    """The arithmetic of a token, at the least: what the entity head reads is not known before."""
    split = shard_set.manifest.total("train")
    share = config.masking.token_rate if "token" in config.masking.objective else 0.0
    return training_flops_per_token(
        shape.num_hidden_layers,
        shape.hidden_size,
        shape.intermediate_size,
        shape.vocab_size,
        min(split.tokens / max(split.documents, 1), config.data.max_document_tokens),
        share,
        share,
    )


def covered(shard_set: ShardSet, entities: EntityVocabulary) -> dict[str, float]:
    """The shares of mention rows whose concept is in the vocabulary, of all of them only where
    the shard set comes with its statistics."""
    statistics = stored_statistics(shard_set)
    found = coverage(read_concepts(shard_set), entities, statistics and statistics.rows)
    of_normalised = {f"of_normalised/{name}": part.of_normalised for name, part in found.items()}
    of_all = {f"of_all/{n}": part.of_all for n, part in found.items() if part.of_all is not None}
    return of_normalised | of_all


def validator(source: StreamSource, world: World) -> Callable[[Engine], dict[str, float]]:
    """Measures the mean losses and the accuracies over a fixed part of the validation split, where
    all that is hidden is [MASK]: a name that stays in sight measures nothing."""
    masking = source.settings.masking.model_copy(update={"replace_share": 0.0, "keep_share": 0.0})
    source = source.with_masking(masking)
    batches = list(validation_batches(source))
    mine: list[Batch] = batches[world.rank :: world.size]
    # Equally many forward passes on every rank: under ZeRO-3 each one is a collective.
    mine += [empty_batch(source.settings)] * (-(-len(batches) // world.size) - len(mine))
    bounds = frequency_bounds(source.settings.entities)

    @torch.no_grad()
    def validate(engine: Engine) -> dict[str, float]:
        if not batches:
            return {}
        model = engine.module.eval()
        sums: Counter[str] = Counter()
        for batch in mine:
            sums.update(_measure(model(batch.to(world.device)), batch, bounds))
        named = [f"{kind}/{name}" for kind in ("n", "loss", "right") for name in LOSSES]
        named += NAMES
        totals = dict(zip(named, world.sum([sums[name] for name in named]), strict=True))
        asked = [name for name in LOSSES if totals[f"n/{name}"]]
        losses = {f"loss/{name}": totals[f"loss/{name}"] / totals[f"n/{name}"] for name in asked}
        accuracies = {
            f"accuracy/{name}": totals[f"right/{name}"] / totals[f"n/{name}"]
            for name in asked
            if name != "identifier"
        }
        return losses | accuracies | scores(totals)

    return validate


def _measure(found: dict[str, Tensor], batch: Batch, bounds: np.ndarray) -> dict[str, float]:
    """What a micro-batch adds to the sums of a validation."""
    ranks = found["rank/identifier"].cpu().numpy()
    types, ids = (part[: len(ranks)].numpy() for part in (batch.mention_types, batch.mention_ids))
    sums = score_sums(types, ids, ranks, bounds)
    for name, count in batch.counts.items():
        sums[f"n/{name}"] = float(count)
        sums[f"loss/{name}"] = float(found[name])
    for name in ("token", "type"):
        sums[f"right/{name}"] = float(found[f"right/{name}"].sum())
    return sums


def export(
    engine: Engine,
    entities: EntityVocabulary,
    rows: TableRows | None,
    job: Job[PretrainConfig],
    digest: str,
) -> None:
    """Write `encoder/`: a plain Hugging Face BERT, and beside it what identifies entities.

    A collective: every rank calls it, rank 0 writes.
    """
    weights = engine.weights()
    if rows is not None:
        weights["entity_head.concepts.weight"] = rows.whole()
    if engine.world.rank == 0:
        model = engine.module
        assert isinstance(model, PretrainingModel)
        prefix = "encoder."
        state = {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
        lineage = {"run": job.config.name, "shard_set": digest, "steps": job.config.train.steps}
        with whole_folder(job.folder / ENCODER) as folder:
            model.encoder.save_pretrained(folder, state_dict=state)  # type: ignore[operator]
            copy_tokenizer(job.config.encoder.path, folder)
            save_entities(folder, weights, entities)
            (folder / LINEAGE).write_text(json.dumps(lineage, indent=1))
            write_encoder_card(folder, job.config, read_events(job.folder, "validation"))
    engine.world.wait()


def check(config: PretrainConfig) -> dict[str, str]:
    """What must hold before any rank is asked for; returns the digest of the shard set.

    Raises FileNotFoundError or Refused that says what to do.
    """
    tokenizer = load_tokenizer(config.encoder.path)
    try:
        shard_set = ShardSet.open(config.data.shards)
    except ValueError as error:
        raise ConfigError(f"data.shards: {error}") from error
    entities = chosen(shard_set, config)
    check_length(config.encoder, config.data.max_document_tokens)
    StreamSource.build(shard_set, config.data, config.masking, entities, tokenizer, config.seed)
    if config.launch.launcher == "ray" and config.launch.workers > config.data.streams:
        raise Refused(
            f"launch.workers ({config.launch.workers}) is more than data.streams "
            f"({config.data.streams}): raise data.streams or take fewer workers"
        )
    return {"shard_set": shard_set.manifest.digest}
