"""The variants of a step ("rungs") that `pretrain_step.py` measures: model, engine and data."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from step_texts import MAX_TOKENS, MEAN_TOKENS, PaddedBatch, Texts, padded
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM

from embre.config import (
    EncoderConfig,
    EntitiesConfig,
    LossWeights,
    NewEncoder,
    OptimizerConfig,
)
from embre.engines.deepspeed_config import deepspeed_json
from embre.engines.deepspeed_engine import DeepSpeedEngine
from embre.engines.engine import Engine
from embre.engines.flops import training_flops_per_token
from embre.engines.torch_engine import TorchEngine
from embre.model.backbone import prepare_for_strips
from embre.model.compiling import compiled
from embre.model.concept_table import ConceptTable
from embre.model.heads import EntityHead
from embre.model.pretraining_model import PretrainingModel
from embre.model.sharded_table import ShardedTable
from embre.model.table_rows import TableRows
from embre.stream.batch import Batch
from embre.world import World

OPTIMIZER = OptimizerConfig()
DIMENSION = 256  # of a concept's vector
NO_SAMPLE = (1 << 62, 1.0)
LOSS_WEIGHTS = LossWeights().model_dump()

HF_PADDED = "a  Hugging Face, padded to 512"
HF_COMPILED = "b  the same, compiled"
PACKED = "p  packed, head at targets"
OURS = "c  and last layer at rows"
OURS_COMPILED = "k  the same, compiled"
ENTITIES = "d  entity_token"
ZERO_1 = "e  the same, ZeRO-1"
ONE_STRIP = "f  d in one micro-batch"
COMPILED = (HF_COMPILED, OURS_COMPILED)


@dataclass(frozen=True, slots=True)
class Setting:
    """The settings of all rungs; `micro_batches` per step, `num_steps` distinct steps."""

    world: World
    shape: NewEncoder
    half_precision: bool
    strip_tokens: int
    micro_batches: int
    num_steps: int
    texts: Texts

    def bert(self) -> BertForMaskedLM:
        """A new model, always with the same weights, without dropout."""
        torch.manual_seed(0)
        shape = self.shape
        return BertForMaskedLM(
            BertConfig(
                vocab_size=self.texts.settings.vocabulary.size,
                pad_token_id=self.texts.settings.special.pad,
                num_hidden_layers=shape.layers,
                hidden_size=shape.hidden,
                num_attention_heads=shape.heads,
                intermediate_size=shape.feed_forward,
                max_position_embeddings=shape.max_positions,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )

    def batches(self, objective: str) -> list[Batch]:
        return self.texts.batches(objective, self.micro_batches * self.num_steps)

    def flops(self, tokens: float, target_share: float, row_share: float) -> float:
        """Training FLOPs per token, if a token's document has `tokens` on average."""
        shape = self.shape
        return training_flops_per_token(
            shape.layers,
            shape.hidden,
            shape.feed_forward,
            self.texts.settings.vocabulary.size,
            tokens,
            target_share,
            row_share,
        )


@dataclass(frozen=True, slots=True)
class Rung:
    """An engine and its micro-batches; `flops` per real token, including those for padding."""

    engine: Engine
    batches: Sequence[Any]
    per_step: int
    flops: float

    def step(self, number: int) -> int:
        """Do one optimizer step; returns its number of real tokens."""
        first = number * self.per_step % len(self.batches)
        mine = self.batches[first : first + self.per_step]
        return self.engine.step(mine, number, 1e-4).num_tokens


class Padded(nn.Module):
    """Hugging Face's model, with its own loss and the head on every token."""

    def __init__(self, bert: nn.Module, half_precision: bool):
        super().__init__()
        self.bert, self.half_precision = bert, half_precision

    def forward(self, batch: PaddedBatch) -> dict[str, Tensor]:
        with torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=self.half_precision):
            found = self.bert(input_ids=batch.ids, attention_mask=batch.mask, labels=batch.labels)
        return {"token": found.loss * batch.num_targets}


def hugging_face(setting: Setting, compile_it: bool) -> Rung:
    bert: Any = setting.bert()
    bert.set_attn_implementation("sdpa")
    num_rows = max(1, setting.strip_tokens // MEAN_TOKENS)
    batches = padded(setting.batches("token"), num_rows, setting.texts.settings.special.pad)
    batches = batches[: len(batches) // setting.micro_batches * setting.micro_batches]
    real = sum(batch.num_tokens for batch in batches) / (len(batches) * num_rows * MAX_TOKENS)
    if compile_it:
        bert = torch.compile(bert)
    model = Padded(bert, setting.half_precision)
    engine = TorchEngine(model, OPTIMIZER, {"token": 1.0}, setting.world, seed=0)
    return Rung(engine, batches, setting.micro_batches, setting.flops(MAX_TOKENS, 1.0, 1.0) / real)


def ours(
    setting: Setting, objective: str, compile_it: bool, all_rows: bool = False, zero: bool = False
) -> Rung:
    batches = setting.batches(objective)
    if all_rows:
        batches = [with_all_rows(batch) for batch in batches]
    bert = prepare_for_strips(setting.bert(), EncoderConfig(path="", dropout=0.0))
    sizes = setting.texts.settings.entities.sizes
    if objective == "token":
        sizes = (0,) * len(sizes)
    table = concept_table(setting, sizes)
    rows = table.rows if isinstance(table, ShardedTable) else None
    head = EntityHead(setting.shape.hidden, len(sizes), table)
    heavy = compiled("inductor") if compile_it else None
    model = PretrainingModel(bert, head, setting.half_precision, heavy)
    flops = flops_of(setting, batches, sizes)
    engine: Engine
    if zero:
        engine = _zero_1(model, setting, rows)
    else:
        engine = TorchEngine(model, OPTIMIZER, LOSS_WEIGHTS, setting.world, 0, rows)
    return Rung(engine, batches, setting.micro_batches, flops)


def in_one_strip(setting: Setting) -> Setting:
    """The setting with all tokens of a step in one micro-batch."""
    size = setting.strip_tokens * setting.micro_batches
    settings = replace(setting.texts.settings, strip_tokens=size)
    texts = replace(setting.texts, settings=settings)
    return replace(setting, strip_tokens=size, micro_batches=1, texts=texts)


def concept_table(setting: Setting, sizes: Sequence[int]) -> ConceptTable | ShardedTable:
    """The concept table as in a run: one matrix, or a sharded table above `shard_above`."""
    if sum(sizes) <= EntitiesConfig().shard_above:
        return ConceptTable(sizes, DIMENSION, *NO_SAMPLE)
    rows = TableRows(sizes, DIMENSION, setting.world, OPTIMIZER, seed=0)
    return ShardedTable(rows, *NO_SAMPLE)


def flops_of(setting: Setting, batches: Sequence[Batch], sizes: Sequence[int]) -> float:
    """FLOPs per real token of our model, with the actual shares of rows and targets."""
    lengths = torch.cat([b.cu_seqlens[: len(b.doc_ids) + 1].diff() for b in batches]).double()
    num_tokens = float(lengths.sum())
    targets = sum(len(batch.token_labels) for batch in batches) / num_tokens
    rows = sum(len(batch.rows) for batch in batches) / num_tokens
    of_head = 0.0
    for batch in batches:
        known = batch.mention_types[batch.mention_ids >= 0]
        of_head += len(batch.mention_types) * setting.shape.hidden * DIMENSION
        of_head += DIMENSION * float(torch.tensor(sizes)[known].sum())
    mean = float(lengths.square().sum()) / num_tokens
    return setting.flops(mean, targets, min(rows, 1.0)) + 6 * of_head / num_tokens


def with_all_rows(batch: Batch) -> Batch:
    """The batch with all rows, so that the last layer is computed for every token."""
    spans = batch.mention_spans
    return replace(
        batch,
        rows=torch.arange(len(batch.input_ids)),
        row_cu_seqlens=batch.cu_seqlens,
        token_target_rows=batch.rows[batch.token_target_rows],
        mention_spans=torch.stack([batch.rows[spans[:, 0]], batch.rows[spans[:, 1] - 1] + 1], 1),
    )


def _zero_1(model: nn.Module, setting: Setting, rows: TableRows | None) -> Engine:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in alone.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    world = setting.world
    settings = deepspeed_json({}, OPTIMIZER, setting.micro_batches, world)
    return DeepSpeedEngine(model, OPTIMIZER, LOSS_WEIGHTS, world, 0, settings, rows)


def ladder(setting: Setting, compile_it: bool) -> dict[str, partial[Rung]]:
    """The rungs by name, in order; compiled ones only if `compile_it`."""
    rungs = {
        HF_PADDED: partial(hugging_face, setting, False),
        HF_COMPILED: partial(hugging_face, setting, True),
        PACKED: partial(ours, setting, "token", False, all_rows=True),
        OURS: partial(ours, setting, "token", False),
        OURS_COMPILED: partial(ours, setting, "token", True),
        ENTITIES: partial(ours, setting, "entity_token", compile_it),
        ZERO_1: partial(ours, setting, "entity_token", compile_it, zero=True),
    }
    if setting.micro_batches > 1:
        rungs[ONE_STRIP] = partial(ours, in_one_strip(setting), "entity_token", compile_it)
    return {n: build for n, build in rungs.items() if compile_it or n not in COMPILED}
