"""How much arithmetic training takes, and how much a device can do: their ratio is the MFU.

Counted as in the PaLM paper (Chowdhery et al., arXiv 2204.02311, appendix B): a multiplication and
an addition are two operations, the backward pass takes twice the forward's, and what is computed
again does not count.
"""

import time

import torch

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
    """Of a BERT with a token head at `target_share` of the tokens; other heads are left out.

    The last layer makes keys and values of all tokens, and the rest at `row_share` of them.

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


def product_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """What a large matrix product reaches here: the best of a few, in operations a second.

    Of drawn numbers: with equal ones a GPU needs less power and runs faster than it ever trains.
    """
    size = 8192 if device.type == "cuda" else 768
    drawn = torch.Generator(device).manual_seed(0)  # and not from what a run draws from
    left, right = (
        torch.randn(size, size, dtype=dtype, device=device, generator=drawn) for _ in range(2)
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
