"""Encoder folders as a pretraining run exports them, small and untrained."""

import json
from pathlib import Path

import pyarrow as pa
import torch

from embre.model.backbone import load_encoder
from embre.model.concept_table import ConceptTable
from embre.model.encoder_folder import PREFIX, save_entities
from embre.model.heads import EntityHead
from embre.provenance import LINEAGE
from embre.shards.concept_hash import hash_of
from embre.shards.entities import SCHEMA, EntityVocabulary, vocabulary_of
from embre.tokenization.tokenizer import copy_tokenizer, load_tokenizer
from tests.tiny import tiny_encoder

DIMENSION = 8


def vocabulary(*rows: tuple[str, str, int, str]) -> EntityVocabulary:
    """Concepts as type, identifier, count and name; by type, the most frequent first."""
    columns = zip(*((hash_of(row[0], row[1]), *row) for row in rows), strict=True)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
    return vocabulary_of(pa.table(arrays, SCHEMA))


def export(
    folder: Path,
    tokenizer: Path,
    entities: EntityVocabulary,
    weights: dict[str, torch.Tensor] | None = None,
    lineage: dict[str, object] | None = None,
) -> Path:
    """A random encoder with an entity head, of whose weights some may be given."""
    torch.manual_seed(4)
    encoder = load_encoder(tiny_encoder(tokenizer), load_tokenizer(tokenizer))
    table = ConceptTable(entities.sizes, DIMENSION, 1 << 30, 1.0)
    head = EntityHead(encoder.config.hidden_size, len(entities.sizes), table).state_dict()
    encoder.save_pretrained(folder)
    copy_tokenizer(tokenizer, folder)
    values = {f"{PREFIX}{name}": value for name, value in (head | (weights or {})).items()}
    save_entities(folder, values, entities)
    (folder / LINEAGE).write_text(json.dumps(lineage or {"run": "small"}))
    return folder
