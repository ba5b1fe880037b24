"""Estimate a pretraining run before it starts: its seconds and the memory of a rank.

Arithmetic with measured utilisation (docs/RESULTS.md), within a factor of two. Small models on a
GPU are bound by kernel launches and take several times as long.
"""

import os
from typing import Any, NamedTuple

import torch

from embre.config import PretrainConfig
from embre.engines.flops import flops_per_token, product_flops_per_s
from embre.model.backbone import backbone_shape, num_parameters
from embre.shards.entities import chosen
from embre.shards.shard_set import ShardSet
from embre.tokenization.tokenizer import load_tokenizer

# A step's FLOP/s as a share of those of a large matrix product on the device, measured.
MFU = {"cpu": 0.65, "cuda": 0.2}
COMPILED_MFU = 0.4  # on a GPU
# A large matrix product of an H200 in bf16, for runs on GPUs if this machine has none.
H200_FLOPS_PER_S = 770e12
WEIGHT_BYTES = 16  # of a parameter: weight, gradient and two moments in float32
SAVED_BYTES = 12  # of a parameter in a checkpoint: the same without the gradient
ROW_BYTES = 8  # of a number in a shared concept table: weight and gradient
# Activations that a layer keeps for the backward pass, per number of its input. In bf16 8.7 GB in
# all for 16,384 tokens of BERT-base; compiled 6.8 GB, and 23 GB for 65,536.
KEPT_BYTES = {"bf16": 46, "fp32": 80}
COMPILED_KEPT_BYTES = 33
KEPT_AGAIN_BYTES = 4  # the same with activation checkpointing: the input itself


class Estimate(NamedTuple):
    """Seconds of all steps, peak memory of a rank, the device they hold for, and the size of one
    checkpoint (all ranks together)."""

    seconds: float
    rank_bytes: float
    device: str
    checkpoint_bytes: float


def estimate(config: PretrainConfig) -> Estimate:
    """Estimate a run on `launch.workers` devices. Raises what the run would be refused for."""
    shard_set, tokenizer = ShardSet.open(config.data.shards), load_tokenizer(config.encoder.path)
    shape = backbone_shape(config.encoder, tokenizer)
    num_concepts = sum(chosen(shard_set, config).sizes)
    workers = config.launch.workers
    # The rate of a CPU is that of all its cores, which the workers of one machine share.
    machines = workers if config.launch.use_gpu or os.environ.get("RAY_ADDRESS") else 1
    rate, device = _flops_per_s(config)
    num_tokens = config.train.steps * config.data.streams * config.data.strip_tokens
    flops = num_tokens * flops_per_token(config, shape, shard_set)
    return Estimate(
        flops / (rate * machines),
        _rank_bytes(config, shape, num_concepts, workers),
        device,
        _checkpoint_bytes(config, shape, num_concepts),
    )


def _flops_per_s(config: PretrainConfig) -> tuple[float, str]:
    kind = "cuda" if config.launch.use_gpu else "cpu"
    mfu = COMPILED_MFU if _is_compiled_for_gpu(config) else MFU[kind]
    if kind == "cuda" and not torch.cuda.is_available():
        return H200_FLOPS_PER_S * mfu, "H200, none is here to measure"
    dtype = torch.bfloat16 if config.encoder.precision == "bf16" else torch.float32
    name = torch.cuda.get_device_name() if kind == "cuda" else "CPU as this one"
    return product_flops_per_s(torch.device(kind), dtype) * mfu, name


def _is_compiled_for_gpu(config: PretrainConfig) -> bool:
    return config.launch.use_gpu and config.encoder.compile


def _checkpoint_bytes(config: PretrainConfig, shape: Any, num_concepts: int) -> float:
    numbers = num_concepts * config.entities.dimension
    if num_concepts > config.entities.shard_above:  # rows, and one moment of each
        return num_parameters(shape) * SAVED_BYTES + numbers * 4
    return (num_parameters(shape) + numbers) * SAVED_BYTES


def _rank_bytes(config: PretrainConfig, shape: Any, num_concepts: int, workers: int) -> float:
    numbers = num_concepts * config.entities.dimension
    shared = num_concepts > config.entities.shard_above
    whole = num_parameters(shape) + (0 if shared else numbers)
    kept = KEPT_BYTES[config.encoder.precision]
    if _is_compiled_for_gpu(config):
        kept = COMPILED_KEPT_BYTES
    if config.encoder.activation_checkpointing:
        kept = KEPT_AGAIN_BYTES
    activations = config.data.strip_tokens * shape.num_hidden_layers * shape.hidden_size
    rows = numbers * ROW_BYTES / workers if shared else 0
    return whole * WEIGHT_BYTES + rows + activations * kept
