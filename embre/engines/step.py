"""The parts of a step that engines share: forward and backward, optimizer, learning rate.

A loss is a sum and a count: the mean is taken once, over all ranks and micro-batches, or the
gradient would depend on how micro-batches were cut.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from embre import interrupts, watchdog
from embre.config import OptimizerConfig
from embre.engines.engine import MicroBatch, StepResult
from embre.engines.step_guard import Skip, StepGuard
from embre.faults import fault_point
from embre.world import World

ALIGNED_BYTES = 16  # of addresses, as vectorized loads need them
# Factor by which an injected fault multiplies the losses of a micro-batch.
SPOILT = {"nan": math.nan, "spike": 50.0}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of AdamW: weight decay for matrices, none for biases and norms; `encoder`
    for the weights of the BERT (Hugging Face calls it `bert` in every model), not for heads.

    ZeRO lays a group end to end in one buffer, so parameters of odd size come last: compiled code
    expects all others at multiples of ALIGNED_BYTES, also when it was cached by a run without ZeRO.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = "bert" in name.split("."), parameter.ndim > 1
            groups.setdefault(key, []).append(parameter)
    for own in groups.values():
        own.sort(key=lambda parameter: parameter.nbytes % ALIGNED_BYTES != 0)
    return [
        {"params": own, "encoder": encoder, "weight_decay": weight_decay if matrices else 0.0}
        for (encoder, matrices), own in groups.items()
    ]


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """The AdamW of a run, fused on a GPU."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.peak_lr,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=next(model.parameters()).is_cuda or None,
    )


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Learning rate of step 0, 1, …: linear warm-up, then linear decay to `final_lr_share`."""
    if step < config.warmup_steps:
        return config.peak_lr * (step + 1) / config.warmup_steps
    left = (num_steps - step) / max(1, num_steps - config.warmup_steps)
    share = config.final_lr_share + (1 - config.final_lr_share) * max(0.0, left)
    return config.peak_lr * share


def set_learning_rates(
    groups: Sequence[dict[str, Any]], config: OptimizerConfig, step: int, lr: float
) -> None:
    """Give each group of `parameter_groups` its learning rate; `lr` is that of the heads.

    Gradients of a frozen encoder are computed all the same, so that AdamW's moments are those of
    real gradients when it thaws. Heads first, after Kumar et al. 2022 (arXiv 2202.10054).
    """
    thawed = step + 1 - config.encoder_frozen_steps
    warm_up = 1.0 if config.encoder_frozen_steps == 0 else thawed / max(1, config.warmup_steps)
    share = config.encoder_lr_ratio * min(1.0, max(0.0, warm_up))
    for group in groups:
        group["lr"] = lr * share if group["encoder"] else lr


def run_micro_batches(
    model: Callable[[Any], dict[str, Tensor]],
    backward: Callable[[Tensor], None],
    micro_batches: Sequence[MicroBatch],
    weights: Mapping[str, float],
    world: World,
    seed: int,
    step: int,
) -> StepResult:
    """Run forward and backward passes of this rank's micro-batches; a collective.

    Each rank's backward passes add up to its share of the gradient of the global mean loss. Dropout
    is seeded by (seed, step, slot), so it does not depend on the rank. `grad_norm` of the result is
    NaN, still to be filled in.
    """
    local = [sum(b.counts[name] for b in micro_batches) for name in weights]
    local += [sum(b.num_tokens for b in micro_batches), sum(b.data_hash for b in micro_batches)]
    # Only rank 0 passes on save requests: another rank might see the same one a step later.
    local += [interrupts.stop_requested(), world.rank == 0 and interrupts.take_save_request()]
    *counts, num_tokens, data_hash, stop, save = world.all_reduce([float(value) for value in local])
    # All copies first, losses read last: one per micro-batch would make the device wait each time.
    moved = [batch.to(world.device) for batch in micro_batches]
    sums = {name: torch.zeros((), dtype=torch.float64, device=world.device) for name in weights}
    for batch in moved:
        torch.manual_seed(_dropout_seed(seed, step, batch.slot))
        losses = model(batch)
        if spoil := fault_point("loss"):
            factor = SPOILT[spoil]
            losses = {name: factor * loss for name, loss in losses.items()}
        total = sum(
            weights[name] * losses[name] / max(count, 1.0)
            for name, count in zip(weights, counts, strict=True)
        )
        assert isinstance(total, Tensor)
        backward(total)
        for name in weights:
            sums[name] += losses[name].detach()
        watchdog.report_progress()
    totals = world.all_reduce([float(total) for total in sums.values()])
    means = {
        name: total / count
        for name, total, count in zip(weights, totals, counts, strict=True)
        if count
    }
    return StepResult(means, math.nan, int(num_tokens), int(data_hash), stop > 0, save > 0)


def gradient_norm(parameters: Iterable[nn.Parameter], world: World) -> Tensor:
    """The global norm of gradients that every rank has in full; a collective.

    All ranks get the norm of rank 0: sums on different hardware differ in their last bits, and the
    weights would drift apart.
    """
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if world.size > 1:
        dist.broadcast(norm, src=0)
    return norm


def weighted(losses: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The weighted sum of losses that a step minimises."""
    return sum(weights[name] * loss for name, loss in losses.items())


def skipped(
    why: str | None, micro_batches: Sequence[MicroBatch], guard: StepGuard, world: World
) -> Skip | None:
    """The Skip of a step if the guard objects (`why`), else None; a collective."""
    if why is None:
        return None
    mine = [doc_id for batch in micro_batches for doc_id in batch.doc_ids]
    doc_ids = sorted({doc_id for ids in world.all_gather(mine) for doc_id in ids})
    return Skip(why, tuple(doc_ids), guard.in_a_row)


def _dropout_seed(seed: int, step: int, slot: int) -> int:
    digest = hashlib.blake2b(f"{seed}/dropout/{step}/{slot}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
