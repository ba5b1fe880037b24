"""FLOPs of training, and FLOPs per second of the device; their ratio is the MFU.

Counted as in the PaLM paper (Chowdhery et al., arXiv 2204.02311, appendix B): a multiplication and
an addition are two operations, the backward pass costs twice the forward pass, and recomputation
does not count.
"""

import time
from typing import Any

import torch

from embre.config import PretrainConfig
from embre.shards.shard_set import ShardSet
from embre.world import World

REPEATS = 5


def training_flops_per_token(
    layers: int,
    hidden: int,
    feed_forward: int,
    vocabulary: int,
    mean_document_tokens: float,
    target_share: float,
    row_share: float = 1.0,
) -> float:
    """Training FLOPs per token of a BERT with a token head at a share `target_share` of the tokens.

    The last layer computes keys and values of all tokens, and the rest for a share `row_share` of
    them. Other heads are not counted.

    >>> round(training_flops_per_token(12, 768, 3072, 30522, 512, 0.15) / 1e6)
    588
    >>> round(training_flops_per_token(12, 768, 3072, 30522, 512, 0.15, row_share=0.15) / 1e6)
    554
    """
    layers_of_rows = layers - 1 + row_share
    keys_and_values = layers * 2 * hidden * hidden
    linear = keys_and_values + layers_of_rows * (2 * hidden * hidden + 2 * hidden * feed_forward)
    attention = layers_of_rows * 2 * hidden * mean_document_tokens
    head = target_share * (hidden * hidden + hidden * vocabulary)
    return 6 * (linear + attention + head)


def mfu_of_token_rate(
    config: PretrainConfig, shape: Any, shard_set: ShardSet, world: World
) -> float:
    """MFU at one token per second over all ranks, against the matrix product that rank 0 measures
    on its device; 0 on other ranks."""
    if world.rank != 0:
        return 0.0
    half = config.encoder.precision == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    flops = flops_per_token(config, shape, shard_set)
    return flops / (product_flops_per_s(world.device, dtype) * world.size)


def flops_per_token(config: PretrainConfig, shape: Any, shard_set: ShardSet) -> float:
    """Training FLOPs per token of a run: a lower bound, because the positions that the entity head
    reads are not known in advance."""
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


def product_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of a large matrix product on this device, the best of REPEATS.

    The matrices are random: with constant ones a GPU needs less power and is faster than it ever is
    in training.
    """
    size = 8192 if device.type == "cuda" else 768
    generator = torch.Generator(device).manual_seed(0)  # leaves the run's random state alone
    left, right = (
        torch.randn(size, size, dtype=dtype, device=device, generator=generator) for _ in range(2)
    )
    times = []
    for _ in range(REPEATS):
        _wait(device)
        started = time.perf_counter()
        torch.matmul(left, right)
        _wait(device)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
