"""The Engine in plain torch: replicated weights, one all-reduce of gradients, AdamW."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from embre.config import OptimizerConfig
from embre.engines import training_state
from embre.engines.engine import MicroBatch, StepResult
from embre.engines.step import (
    adamw,
    gradient_norm,
    run_micro_batches,
    set_learning_rates,
    skipped,
    weighted,
)
from embre.engines.step_guard import StepGuard
from embre.engines.training_state import WEIGHT
from embre.model.table_rows import TableRows
from embre.world import World


class TorchEngine:
    """The reference that the other engine is tested against.

    `rows`, this rank's rows of a sharded concept table, are updated with the weights and are part
    of the state; gradient norm and clipping ignore them.
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
        self.config = optimizer
        self.guard = StepGuard(optimizer.spike_sigmas)
        self._model = model.to(world.device)
        self._optimizer = adamw(self._model, optimizer)
        # Not by the first update: it may be skipped although a checkpoint is due.
        training_state.begin_adam(self._optimizer, self._model.parameters(), updates=0)

    @property
    def module(self) -> nn.Module:
        return self._model

    def step(self, micro_batches: Sequence[MicroBatch], step: int, lr: float) -> StepResult:
        self._model.train()
        self._optimizer.zero_grad(set_to_none=True)
        result = run_micro_batches(
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
            if parameter.grad is None:  # no target of its loss: weights still decay
                parameter.grad = torch.zeros_like(parameter)
        if self.world.size > 1:
            _sum_gradients(parameters)
        total_norm = gradient_norm(parameters, self.world)
        nn.utils.clip_grads_with_norm_(parameters, self.config.max_grad_norm, total_norm)
        norm = float(total_norm)
        why = self.guard.reason_to_skip(weighted(result.losses, self.loss_weights), norm)
        if why is None:
            set_learning_rates(self._optimizer.param_groups, self.config, step, lr)
            self._optimizer.step()
        if self.rows is not None:
            self.rows.update(lr, scale=1.0) if why is None else self.rows.zero_gradient()
        skip = skipped(why, micro_batches, self.guard, self.world)
        return replace(result, grad_norm=norm, skip=skip)

    def state(self) -> dict[str, Tensor]:
        updates = training_state.num_updates(self._optimizer)
        share = training_state.share_of_state(self.world, self._model, updates, self._whole)
        share |= self.guard.state() if self.world.rank == 0 else {}
        return share | (self.rows.state() if self.rows is not None else {})

    def checksum(self) -> int:
        return training_state.checksum(self._model.parameters())

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
        return training_state.on_cpu(self._model.state_dict())


def _sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum gradients over ranks in one flat all-reduce."""
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    for parameter, part in zip(parameters, flat.split([g.numel() for g in grads]), strict=True):
        parameter.grad = part.view_as(parameter)
