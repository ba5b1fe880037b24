"""Pretraining: shards → encoder. Builds the parts, trains, exports."""

import json
from contextlib import closing

import torch

from embre.atomic_files import atomic_folder
from embre.checkpoints.checkpoints import Checkpoints
from embre.checkpoints.folder import FOLDER
from embre.config import ConfigError, EncoderConfig, PretrainConfig
from embre.engines.build import build_engine
from embre.engines.engine import Engine
from embre.engines.flops import mfu_of_token_rate
from embre.job import Job
from embre.model.backbone import check_length, load_encoder
from embre.model.compiling import heavy_parts
from embre.model.concept_table import ConceptTable
from embre.model.encoder_folder import save_entities
from embre.model.heads import EntityHead
from embre.model.pretraining_model import PretrainingModel
from embre.model.sharded_table import ShardedTable
from embre.model.table_rows import TableRows
from embre.model_card import write_encoder_card
from embre.provenance import LINEAGE, read_lineage
from embre.refused import Refused
from embre.shards.entities import EntityVocabulary, chosen, coverage, read_concepts
from embre.shards.shard_set import Manifest, ShardSet
from embre.shards.statistics import stored_statistics
from embre.stream.source import StreamSource
from embre.stream.stream_loader import StreamLoader
from embre.tokenization.tokenizer import copy_tokenizer, load_tokenizer
from embre.tracking import read_events
from embre.tracking.sending import tracker_of
from embre.train import train
from embre.validation_set import ValidationSet
from embre.world import World

ENCODER, QUARANTINE = "encoder", "quarantine"


def pretrain(job: Job[PretrainConfig], world: World) -> None:
    """Run one rank of pretraining, from its newest checkpoint to the exported encoder."""
    config = job.config
    torch.manual_seed(config.seed)
    tokenizer = load_tokenizer(config.encoder.path)
    shard_set = ShardSet.open(config.data.shards)
    entities = chosen(shard_set, config)
    quarantine = job.folder / QUARANTINE
    source = StreamSource.build(
        shard_set, config.data, config.masking, entities, tokenizer, config.seed, quarantine
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
    validation = ValidationSet(source, world)
    with (
        closing(loader),
        tracker_of(
            job.handle,
            job.folder,
            world,
            config.train.log_every_steps,
            waited_s=lambda: loader.waited_s,
            mfu_of_token_rate=mfu_of_token_rate(config, encoder.config, shard_set, world),
            num_quarantined=source.num_quarantined,
        ) as tracker,
    ):
        if world.rank == 0:
            tracker.vocabulary(covered(shard_set, entities))
        train(
            engine,
            loader,
            checkpoints,
            tracker,
            config.train,
            config.optimizer,
            validation.validate,
        )
    export(engine, entities, rows, job, shard_set.manifest)


def concept_table(
    config: PretrainConfig, sizes: tuple[int, ...], world: World
) -> ConceptTable | ShardedTable:
    """The concept table: one matrix up to `shard_above` concepts, else rows split over ranks."""
    wanted = config.entities
    sampling = wanted.sample_above, wanted.sample_share
    if sum(sizes) <= wanted.shard_above:
        return ConceptTable(sizes, wanted.dimension, *sampling)
    rows = TableRows(sizes, wanted.dimension, world, config.optimizer, config.seed)
    return ShardedTable(rows, *sampling)


def covered(shard_set: ShardSet, entities: EntityVocabulary) -> dict[str, float]:
    """Fractions of mentions whose concept is in the vocabulary: of the normalised ones, and of all
    if the shard set has statistics."""
    statistics = stored_statistics(shard_set)
    found = coverage(read_concepts(shard_set), entities, statistics and statistics.rows)
    of_normalised = {f"of_normalised/{name}": part.of_normalised for name, part in found.items()}
    of_all = {f"of_all/{n}": part.of_all for n, part in found.items() if part.of_all is not None}
    return of_normalised | of_all


def export(
    engine: Engine,
    entities: EntityVocabulary,
    rows: TableRows | None,
    job: Job[PretrainConfig],
    manifest: Manifest,
) -> None:
    """Write `encoder/`: a plain Hugging Face BERT, beside it the entity head and its vocabulary.

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
        lineage = {
            "run": job.config.name,
            "shard_set": manifest.digest,
            "steps": job.config.train.steps,
            "held_out": held_out(job.config.encoder, manifest),
        }
        with atomic_folder(job.folder / ENCODER) as folder:
            model.encoder.save_pretrained(folder, state_dict=state)  # type: ignore[operator]
            copy_tokenizer(job.config.encoder.path, folder)
            save_entities(folder, weights, entities)
            (folder / LINEAGE).write_text(json.dumps(lineage, indent=1))
            write_encoder_card(folder, job.config, read_events(job.folder, "validation"))
    engine.world.barrier()


def held_out(config: EncoderConfig, manifest: Manifest) -> list[str]:
    """Names of the hold-out lists whose documents no pretraining has seen: neither this run nor
    that of the embre encoder that it started from."""
    before = {} if config.new else read_lineage(config.path)
    names = set(manifest.held_out)
    if "shard_set" in before:
        names &= set(before.get("held_out", []))
    return sorted(names)


def check(config: PretrainConfig) -> dict[str, str]:
    """Check a config before any rank starts; returns the digest of the shard set.

    Raises FileNotFoundError or Refused with a remedy.
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
