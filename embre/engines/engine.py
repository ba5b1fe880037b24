"""What carries out a step: the Engine protocol, and its plain side in torch.

A loss is a sum and a count: the mean is taken once, over all ranks and micro-batches, or the
gradient would depend on how micro-batches were cut.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from embre import interrupts
from embre.config import OptimizerConfig
from embre.engines import training_state
from embre.engines.step_guard import Skip, StepGuard
from embre.engines.training_state import WEIGHT
from embre.faults import fault_point
from embre.model.table_rows import TableRows
from embre.world import World

# What the faults of a loss make of it.
SPOILT = {"nan": math.nan, "spike": 50.0}


class MicroBatch(Protocol):
    """What an engine needs to know of a micro-batch: its slot in the step and its targets.

    `data_hash` is 32 bits of what is in it, 0 for an empty one, `doc_ids` the documents.
    """

    @property
    def slot(self) -> int: ...

    @property
    def counts(self) -> dict[str, int]: ...

    @property
    def num_tokens(self) -> int: ...

    @property
    def data_hash(self) -> int: ...

    @property
    def doc_ids(self) -> tuple[str, ...]: ...

    def to(self, device: torch.device) -> Any: ...


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step did, the same on every rank.

    `losses` are means over the targets of each kind that has some, `grad_norm` the global L2 norm
    before clipping, `num_tokens` the tokens of all ranks. `data_hash` is the sum of the
    micro-batches' hashes: two runs with equal ones have seen the same texts, masked alike. `stop`
    says that a rank was asked to stop, `save` that rank 0 was asked to save. `skip` says why no
    update was made, where none was.
    """

    losses: dict[str, float]
    grad_norm: float
    num_tokens: int
    data_hash: int
    stop: bool
    save: bool = False
    skip: Skip | None = None


class Engine(Protocol):
    """Carries out optimizer steps and keeps their state."""

    world: World

    @property
    def module(self) -> nn.Module:
        """The model, unwrapped."""
        ...

    def step(self, micro_batches: Sequence[MicroBatch], step: int, lr: float) -> StepResult:
        """One update over all ranks' micro-batches, or none where the guard objects."""
        ...

    def state(self) -> dict[str, Tensor]:
        """This rank's share of weights and optimizer state, copied to the CPU; a collective."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up the whole state: the shares of all ranks, of however many."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The full weights on the CPU; a collective: every rank calls it, rank 0 gets them."""
        ...


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
) -> StepResult:
    """Forward and backward of this rank's micro-batches.

    Each rank's backward adds its share of the gradient of the global mean loss. Dropout is seeded
    by (seed, step, slot), so it does not depend on the rank. Returns what the step did, its
    gradient norm still unknown.
    """
    local = [sum(b.counts[name] for b in micro_batches) for name in weights]
    local += [sum(b.num_tokens for b in micro_batches), sum(b.data_hash for b in micro_batches)]
    # Rank 0 alone asks for a save: another rank may see the request a step later, and ask again.
    local += [interrupts.asked_to_stop(), world.rank == 0 and interrupts.asked_to_save()]
    *counts, num_tokens, data_hash, stop, save = world.sum([float(value) for value in local])
    # Copied at once, and losses read at the end: each would make the device wait for this process.
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
    totals = world.sum([float(total) for total in sums.values()])
    means = {
        name: total / count
        for name, total, count in zip(weights, totals, counts, strict=True)
        if count
    }
    return StepResult(means, math.nan, int(num_tokens), int(data_hash), stop > 0, save > 0)


def weighted(losses: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The loss that a step minimises."""
    return sum(weights[name] * loss for name, loss in losses.items())


def skipped(
    why: str | None, micro_batches: Sequence[MicroBatch], guard: StepGuard, world: World
) -> Skip | None:
    """What is said of a step whose update is left out: `why`, or nothing; every rank calls it."""
    if why is None:
        return None
    mine = [doc_id for batch in micro_batches for doc_id in batch.doc_ids]
    doc_ids = sorted({doc_id for of_rank in world.gather(mine) for doc_id in of_rank})
    return Skip(why, tuple(doc_ids), guard.in_a_row)


class TorchEngine:
    """The reference: replicated weights, one all-reduce of gradients, AdamW.

    `rows` of a concept table that the ranks share are updated with the rest and kept in its state;
    the gradient norm and its clipping are without them.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        loss_weights: Mapping[str, float],
        world: World,
        seed: int,
        rows: TableRows | None = None,
    ):
        self.world = world
        self.loss_weights = loss_weights
        self.seed = seed
        self.rows = rows
        self.clip_norm = optimizer.clip_norm
        self.guard = StepGuard(optimizer.spike_sigmas)
        self._model = model.to(world.device)
        self._optimizer = adamw(self._model, optimizer)
        # Not left to the first update: it may be left out, and a save be due all the same.
        training_state.begin_adam(self._optimizer, self._model.parameters(), updates=0)

    @property
    def module(self) -> nn.Module:
        return self._model

    def step(self, micro_batches: Sequence[MicroBatch], step: int, lr: float) -> StepResult:
        self._model.train()
        self._optimizer.zero_grad(set_to_none=True)
        done = run_micro_batches(
            self._model,
            lambda loss: loss.backward(),
            micro_batches,
            self.loss_weights,
            self.world,
            self.seed,
            step,
        )
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:  # no target of its kind: the weights decay all the same
                parameter.grad = torch.zeros_like(parameter)
        if self.world.size > 1:
            _sum_gradients(parameters)
        norm = float(nn.utils.clip_grad_norm_(parameters, self.clip_norm))
        why = self.guard.objection(weighted(done.losses, self.loss_weights), norm)
        if why is None:
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
        if self.rows is not None:
            self.rows.update(lr, scale=1.0) if why is None else self.rows.forget()
        skip = skipped(why, micro_batches, self.guard, self.world)
        return replace(done, grad_norm=norm, skip=skip)

    def state(self) -> dict[str, Tensor]:
        updates = training_state.num_updates(self._optimizer)
        share = training_state.share_of_state(self.world, self._model, updates, self._whole)
        share |= self.guard.state() if self.world.rank == 0 else {}
        return share | (self.rows.state() if self.rows is not None else {})

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        updates = int(state[training_state.UPDATES])
        training_state.begin_adam(self._optimizer, self._model.parameters(), updates)

        def put(parameter: nn.Parameter, part: str, value: Tensor) -> None:
            with torch.no_grad():
                self._whole(parameter, part).copy_(value)

        training_state.load_state(self._model, state, put)
        self.guard.load_state(state)
        if self.rows is not None:
            self.rows.load_state(state)

    def _whole(self, parameter: nn.Parameter, part: str) -> Tensor:
        return parameter if part == WEIGHT else self._optimizer.state[parameter][part]

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu() for name, value in self._model.state_dict().items()}


def _sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum gradients over ranks in one flat all-reduce."""
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    for parameter, part in zip(parameters, flat.split([g.numel() for g in grads]), strict=True):
        parameter.grad = part.view_as(parameter)


def _dropout_seed(seed: int, step: int, slot: int) -> int:
    digest = hashlib.blake2b(f"{seed}/dropout/{step}/{slot}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
