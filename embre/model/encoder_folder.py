"""Read an encoder exported by `embre pretrain`, with its entity head.

The folder is a plain Hugging Face BERT; entity head and vocabulary are files beside its weights.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from embre.config import EncoderConfig
from embre.model.backbone import load_encoder
from embre.model.concept_table import ConceptTable
from embre.model.heads import EntityHead
from embre.model.pretraining_model import PretrainingModel
from embre.refused import Refused
from embre.shards.entities import CONCEPTS, SCHEMA, EntityVocabulary, save_vocabulary, vocabulary_of
from embre.tokenization.tokenizer import TextTokenizer, load_tokenizer

HEAD = "entity_head.safetensors"
PREFIX = "entity_head."
FILES = ("config.json", "model.safetensors", HEAD, CONCEPTS)


@dataclass(frozen=True, slots=True)
class PretrainedEncoder:
    """An exported pretraining model with its vocabulary and tokenizer, ready for inference.

    `max_tokens` is the maximum input length, including [CLS] and [SEP].
    """

    folder: Path
    model: PretrainingModel
    entities: EntityVocabulary
    tokenizer: TextTokenizer
    max_tokens: int


def save_entities(folder: Path, weights: dict[str, Tensor], entities: EntityVocabulary) -> None:
    """Write entity head and vocabulary beside an encoder; `weights` are the whole model's."""
    head = {name: value.contiguous() for name, value in weights.items() if name.startswith(PREFIX)}
    save_file(head, folder / HEAD)
    save_vocabulary(folder / CONCEPTS, entities)


def load_pretrained(folder: str | Path, device: torch.device) -> PretrainedEncoder:
    """Read an exported encoder in float32 and eval mode; runs no code from the folder.

    Raises FileNotFoundError if a file is missing, Refused if the files do not fit together.
    """
    folder = Path(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder}: no {name}, so this is not an encoder of embre pretrain; give the "
                "`encoder` folder of a finished run, or the run's folder"
            )
    tokenizer = load_tokenizer(folder)
    encoder = load_encoder(EncoderConfig(path=str(folder), dropout=0.0), tokenizer)
    shape = encoder.config
    entities = _read_vocabulary(folder / CONCEPTS)
    head = _load_head(folder / HEAD, shape.hidden_size, entities.sizes)
    model = PretrainingModel(encoder, head, half_precision=False)
    max_tokens = int(shape.max_position_embeddings)
    return PretrainedEncoder(folder, model.to(device).eval(), entities, tokenizer, max_tokens)


def _read_vocabulary(path: Path) -> EntityVocabulary:
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise Refused(f"{path}: damaged ({error}); export or copy the encoder again") from error
    if not table.schema.equals(SCHEMA):
        raise Refused(f"{path}: not the concept table of an encoder; copy the encoder again")
    return vocabulary_of(table)


def _load_head(path: Path, hidden: int, sizes: tuple[int, ...]) -> EntityHead:
    try:
        state = {name.removeprefix(PREFIX): value for name, value in load_file(path).items()}
        dimension = state["concepts.weight"].shape[1]
        # On meta, without memory: the table can have millions of rows and adopts the loaded ones.
        with torch.device("meta"):
            table = ConceptTable(sizes, dimension, sample_above=sum(sizes), sample_share=1.0)
            head = EntityHead(hidden, len(sizes), table)
        head.load_state_dict(state, assign=True)
    except (KeyError, RuntimeError, SafetensorError) as error:
        raise Refused(
            f"{path}: does not fit {CONCEPTS} and config.json beside it; copy the encoder again "
            f"({error})"
        ) from error
    return head
