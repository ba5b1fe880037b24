"""What carries out a step: the Engine protocol, and its plain side in torch.

A loss is a sum and a count: the mean is taken once, over all ranks and micro-batches, or the
gradient would depend on how micro-batches were cut.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from embre.config import OptimizerConfig
from embre.world import World


class MicroBatch(Protocol):
    """What an engine needs to know of a micro-batch: its slot in the step and its targets."""

    @property
    def slot(self) -> int: ...

    @property
    def counts(self) -> dict[str, int]: ...

    @property
    def num_tokens(self) -> int: ...

    def to(self, device: torch.device) -> Any: ...


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did, the same on every rank.

    `losses` are means over the targets of each kind, `grad_norm` the global L2 norm before
    clipping, `num_tokens` the tokens of all ranks.
    """

    losses: dict[str, float]
    grad_norm: float
    num_tokens: int


class Engine(Protocol):
    """Carries out optimizer steps and keeps their state."""

    world: World
    any_world_size: bool
    """Whether `load` takes up a state that another number of ranks saved."""

    @property
    def module(self) -> nn.Module:
        """The model, unwrapped."""
        ...

    def step(self, micro_batches: Sequence[MicroBatch], step: int, lr: float) -> StepResult:
        """One update over all ranks' micro-batches."""
        ...

    def save(self, folder: Path) -> None:
        """Write this rank's part of the state into a folder that all ranks share."""
        ...

    def load(self, folder: Path) -> None:
        """Take up the state of a folder that `save` wrote."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The full weights on the CPU; a collective: every rank calls it, rank 0 gets them."""
        ...


class NonFiniteLoss(FloatingPointError):
    """A loss or gradient is no number. The run stops; under DeepSpeed's ZeRO an update with an
    infinite gradient may have happened, so what counts is the newest checkpoint."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """The optimizer of every run."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.peak_lr,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=next(model.parameters()).is_cuda or None,
    )


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """The rate of step 0, 1, …: linear warm-up, then linear decay to `final_lr_share`."""
    if step < config.warmup_steps:
        return config.peak_lr * (step + 1) / config.warmup_steps
    left = (num_steps - step) / max(1, num_steps - config.warmup_steps)
    share = config.final_lr_share + (1 - config.final_lr_share) * max(0.0, left)
    return config.peak_lr * share


def run_micro_batches(
    model: Callable[[Any], dict[str, Tensor]],
    backward: Callable[[Tensor], None],
    micro_batches: Sequence[MicroBatch],
    weights: Mapping[str, float],
    world: World,
    seed: int,
    step: int,
) -> tuple[dict[str, float], int]:
    """Forward and backward of this rank's micro-batches.

    Each rank's backward adds its share of the gradient of the global mean loss. Dropout is seeded
    by (seed, step, slot), so it does not depend on the rank. Returns the global mean losses and
    the tokens of all ranks; raises NonFiniteLoss on every rank alike.
    """
    local = [sum(b.counts[name] for b in micro_batches) for name in weights]
    *counts, num_tokens = world.sum([*local, sum(b.num_tokens for b in micro_batches)])
    sums = dict.fromkeys(weights, 0.0)
    for batch in micro_batches:
        torch.manual_seed(_dropout_seed(seed, step, batch.slot))
        losses = model(batch.to(world.device))
        total = sum(
            weights[name] * losses[name] / max(count, 1.0)
            for name, count in zip(weights, counts, strict=True)
        )
        assert isinstance(total, Tensor)
        backward(total)
        for name in weights:
            sums[name] += float(losses[name].detach())
    totals = world.sum(list(sums.values()))
    means = {
        name: total / max(count, 1.0)
        for name, total, count in zip(weights, totals, counts, strict=True)
    }
    if not all(math.isfinite(mean) for mean in means.values()):
        raise NonFiniteLoss(f"step {step}: a loss is no number: {means}")
    return means, int(num_tokens)


class TorchEngine:
    """The reference: replicated weights, one all-reduce of gradients, AdamW."""

    any_world_size = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        loss_weights: Mapping[str, float],
        world: World,
        seed: int,
    ):
        self.world = world
        self.loss_weights = loss_weights
        self.seed = seed
        self.clip_norm = optimizer.clip_norm
        self._model = model.to(world.device)
        self._optimizer = adamw(self._model, optimizer)

    @property
    def module(self) -> nn.Module:
        return self._model

    def step(self, micro_batches: Sequence[MicroBatch], step: int, lr: float) -> StepResult:
        self._model.train()
        self._optimizer.zero_grad(set_to_none=True)
        losses, num_tokens = run_micro_batches(
            self._model,
            lambda loss: loss.backward(),
            micro_batches,
            self.loss_weights,
            self.world,
            self.seed,
            step,
        )
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        if self.world.size > 1:
            _sum_gradients(parameters)
        norm = float(nn.utils.clip_grad_norm_(parameters, self.clip_norm))
        if not math.isfinite(norm):
            raise NonFiniteLoss(f"step {step}: the gradient norm is {norm}")
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        return StepResult(losses, norm, num_tokens)

    def save(self, folder: Path) -> None:
        if self.world.rank == 0:
            state = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
            torch.save(state, folder / "torch.pt")

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "torch.pt", map_location=self.world.device, weights_only=True)
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu() for name, value in self._model.state_dict().items()}


def _sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum gradients over ranks in one flat all-reduce; a parameter without one counts as zero."""
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    for parameter, part in zip(parameters, flat.split([g.numel() for g in grads]), strict=True):
        parameter.grad = part.view_as(parameter)


def _dropout_seed(seed: int, step: int, slot: int) -> int:
    digest = hashlib.blake2b(f"{seed}/dropout/{step}/{slot}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
