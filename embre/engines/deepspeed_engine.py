"""The Engine on DeepSpeed: ZeRO stages 0 to 3. The only module that imports deepspeed."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from embre.config import OptimizerConfig
from embre.engines import training_state
from embre.engines.compiled_ops import OPS_FOLDER_VARIABLE, ops_folder, stale_locks
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
from embre.refused import Refused
from embre.world import World


def import_deepspeed(device: torch.device) -> Any:
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # One cache per combination of versions: torch would load ops that were built for another.
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    built_for = f"{python}-torch{torch.__version__}-deepspeed{version('deepspeed')}"
    os.environ.setdefault(OPS_FOLDER_VARIABLE, str(ops_folder() / built_for))
    if stale := next(iter(stale_locks(ops_folder())), None):
        lock, quiet_s = stale
        raise Refused(
            f"{lock}: left {quiet_s / 60:.0f} minutes ago by a killed build; every process that "
            "needs the op would wait for ever; remove it unless another machine is building the op"
        )
    import deepspeed
    import deepspeed.ops

    # An op for inference, which every distributed start on a CPU would compile for a minute; a
    # process killed meanwhile would leave a lock that all later starts wait for.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # type: ignore[attr-defined]
    deepspeed.utils.logger.setLevel("WARNING")
    return deepspeed


class DeepSpeedEngine:
    """ZeRO training with the losses and gradient norms of TorchEngine."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        loss_weights: Mapping[str, float],
        world: World,
        seed: int,
        settings: dict[str, Any],
        rows: TableRows | None = None,
    ):
        self.world = world
        self.rows = rows
        self.loss_weights = loss_weights
        self.seed = seed
        self.config = optimizer
        self.stage = settings["zero_optimization"]["stage"]
        deepspeed = import_deepspeed(world.device)
        deepspeed.init_distributed(
            dist_backend="nccl" if world.device.type == "cuda" else "gloo", verbose=False
        )
        model = model.to(world.device)
        self._engine = deepspeed.initialize(
            model=model, optimizer=adamw(model, optimizer), config=settings
        )[0]
        self.guard = StepGuard(optimizer.spike_sigmas)
        self._loss = math.nan
        self._judged: tuple[float, str | None] | None = None
        self._call_guard_before_updates()
        self._begin_adam(updates=0)  # a checkpoint may be due although the first update is skipped

    @property
    def module(self) -> nn.Module:
        return self._engine.module

    def step(self, micro_batches: Sequence[MicroBatch], step: int, lr: float) -> StepResult:
        self._engine.train()
        set_learning_rates(self._engine.optimizer.param_groups, self.config, step, lr)
        last = len(micro_batches) - 1
        done = 0

        def backward(loss: Tensor) -> None:
            nonlocal done
            # DeepSpeed averages gradients over ranks; ours are already shares of a global mean.
            self._engine.backward(loss * self.world.size, scale_wrt_gas=False)
            if done < last:
                self._engine.step()
            done += 1

        result = run_micro_batches(
            self._engine,
            backward,
            micro_batches,
            self.loss_weights,
            self.world,
            self.seed,
            step,
        )
        self._expect_norm(weighted(result.losses, self.loss_weights))
        self._engine.step()
        assert self._judged is not None, "the norm is computed before an update at every stage"
        norm, why = self._judged
        if self.rows is not None:  # DeepSpeed does not average their gradient
            self.rows.zero_gradient() if why else self.rows.update(lr, scale=1 / self.world.size)
        skip = skipped(why, micro_batches, self.guard, self.world)
        return replace(result, grad_norm=norm, skip=skip)

    def _expect_norm(self, loss: float) -> None:
        """Record the loss of the current step, whose gradient norm is not known yet."""
        self._loss, self._judged = loss, None

    def _judge(self, norm: float) -> tuple[float, str | None]:
        """Pass the norm of the current step to the guard, once per step; returns it with the
        reason to skip the update, or None."""
        self._judged = norm, self.guard.reason_to_skip(self._loss, norm)
        return self._judged

    def _call_guard_before_updates(self) -> None:
        """Call the guard between norm and update. If it objects, the norm is reported as infinite,
        and ZeRO skips the update."""
        zero = self._engine.optimizer
        if self.stage == 0:  # updates whatever the norm: drop the gradients instead
            parameters = [*self.module.parameters()]

            def clip_fp32_gradients() -> None:
                norm = gradient_norm(parameters, self.world)
                _, why = self._judge(float(norm))
                if why is None:
                    nn.utils.clip_grads_with_norm_(parameters, self.config.max_grad_norm, norm)
                    return
                for parameter in parameters:
                    parameter.grad = None  # AdamW skips parameters without one

            self._engine.clip_fp32_gradients = clip_fp32_gradients
        elif self.stage in (1, 2):
            measure = zero.scaled_global_norm

            def scaled_global_norm(*args: Any, **settings: Any) -> Tensor:
                norm = measure(*args, **settings)
                _, why = self._judge(float(norm))
                return norm if why is None else torch.full_like(norm, math.inf)

            zero.scaled_global_norm = scaled_global_norm
        else:
            from deepspeed.runtime.utils import combine_grad_norm_groups

            norms_of_groups = zero._get_norm_groups

            def norm_groups() -> list[Tensor]:
                norms = norms_of_groups()
                _, why = self._judge(float(combine_grad_norm_groups(norms)))
                return norms if why is None else [norms[0].new_tensor(math.inf)]

            zero._get_norm_groups = norm_groups

    def state(self) -> dict[str, Tensor]:
        updates = training_state.num_updates(self._adam)
        self._link_moments()
        share = training_state.share_of_state(self.world, self.module, updates, self._whole)
        share |= self.guard.state() if self.world.rank == 0 else {}
        return share | (self.rows.state() if self.rows is not None else {})

    def checksum(self) -> int:
        return 0 if self.stage == 3 else training_state.checksum(self.module.parameters())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._begin_adam(int(state[training_state.UPDATES]))
        self._link_moments()
        with torch.no_grad():
            training_state.load_state(self.module, state, self._put)
        self.guard.load_state(state)
        if self.rows is not None:
            self.rows.load_state(state)

    def _begin_adam(self, updates: int) -> None:
        """Create the Adam state of the parameters this rank trains."""
        zero = self._engine.optimizer
        if self.stage == 0:
            mine = self.module.parameters()
        elif self.stage == 3:
            mine = zero.fp32_partitioned_groups_flat
        else:
            mine = zero.single_partition_of_fp32_groups
        training_state.begin_adam(self._adam, mine, updates)

    @property
    def _adam(self) -> torch.optim.AdamW:
        """The optimizer; under ZeRO its parameters are this rank's partitions."""
        return self._engine.optimizer.optimizer if self.stage else self._engine.optimizer

    def _link_moments(self) -> None:
        """Link parameters to their part of the moments. DeepSpeed's ZeRO 1 and 2 do this after the
        step of the first parameter group, when the second has no moments yet."""
        if self.stage in (1, 2):
            zero = self._engine.optimizer
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    def _whole(self, parameter: nn.Parameter, part: str) -> Tensor:
        """A weight or moment in full; a collective under ZeRO."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self.stage == 0:
            return parameter if part == WEIGHT else self._adam.state[parameter][part]
        if part == WEIGHT:
            whole = safe_get_full_fp32_param(parameter)
        else:
            whole = safe_get_full_optimizer_state(parameter, part)
        assert whole is not None, "every parameter is trained"
        return whole

    def _put(self, parameter: nn.Parameter, part: str, value: Tensor) -> None:
        """Set a weight or moment from its full value."""
        if self.stage == 0:
            self._whole(parameter, part).copy_(value)
        elif self.stage == 3:
            self._put_partition(parameter, part, value)
        else:
            from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

            if part == WEIGHT:
                parameter.data.copy_(value)
                safe_set_full_fp32_param(parameter, value)
            else:
                safe_set_full_optimizer_state(parameter, value, part)

    def _put_partition(self, parameter: nn.Parameter, part: str, value: Tensor) -> None:
        """Set this rank's ZeRO-3 partition; all are of equal size, the last one is padded."""
        import deepspeed
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        size = parameter.ds_tensor.numel()  # pyright: ignore[reportAttributeAccessIssue]
        flat = nn.functional.pad(value.flatten(), (0, size * self.world.size - value.numel()))
        mine = flat[size * self.world.rank : size * (self.world.rank + 1)]
        if part == WEIGHT:
            safe_set_local_fp32_param(parameter, mine)
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.data.copy_(value)
        else:
            safe_set_local_optimizer_state(parameter, mine, part)

    def weights(self) -> dict[str, Tensor]:
        if self.stage < 3:
            return training_state.on_cpu(self.module.state_dict())
        import deepspeed

        full: dict[str, Tensor] = dict(self.module.state_dict())
        gathered: dict[int, Tensor] = {}  # tied weights stay one tensor
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            if id(parameter) not in gathered:
                with deepspeed.zero.GatheredParameters([parameter]):
                    gathered[id(parameter)] = parameter.detach().cpu().clone()
            full[name] = gathered[id(parameter)]
        return training_state.on_cpu(full)
