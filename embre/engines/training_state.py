"""Training state keyed by parameter name, the same for every engine, ZeRO stage and world size.

A parameter has a weight and the two moments of Adam, all float32. Each rank saves a share of them,
and any number of ranks can load the whole.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from embre.world import World

WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
BUFFER = "buffer"
UPDATES = "updates"  # number of updates the optimizer has made


def share_of_state(
    world: World,
    module: nn.Module,
    num_updates: int,
    whole: Callable[[nn.Parameter, str], Tensor],
) -> dict[str, Tensor]:
    """This rank's share of the state, on the CPU, keyed `weight/NAME`, `exp_avg/NAME` and so on.

    `whole` returns a parameter's weight or moment in full. It may be a collective, so every rank
    calls it for all parameters in the same order.
    """
    share: dict[str, Tensor] = {}
    for number, (name, parameter) in enumerate(module.named_parameters()):
        for part in (WEIGHT, *MOMENTS):
            value = whole(parameter, part).detach()
            if number % world.size == world.rank:
                share[f"{part}/{name}"] = value.to("cpu", torch.float32, copy=True)
    if world.rank == 0:
        share[UPDATES] = torch.tensor(num_updates)
        persistent = module.state_dict()
        for name, buffer in module.named_buffers():
            if name in persistent:
                share[f"{BUFFER}/{name}"] = buffer.detach().to("cpu", copy=True)
    return share


def checksum(parameters: Iterable[Tensor]) -> int:
    """64-bit checksum of all bits of the parameters; synchronizes with the device once."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = torch.stack(
        [
            parameter.detach().reshape(-1).view(bits[parameter.element_size()]).sum()
            for parameter in parameters
        ]
    )
    # Odd factors, so that values swapped between parameters change the checksum.
    return int((sums * (2 * torch.arange(len(sums), device=sums.device) + 1)).sum())


def on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict moved to the CPU; tied weights stay one tensor."""
    copies: dict[tuple[object, ...], Tensor] = {}
    moved = {}
    for name, value in state.items():
        key = value.data_ptr(), value.dtype, value.shape, value.stride()
        if key not in copies:
            copies[key] = value.detach().cpu()
        moved[name] = copies[key]
    return moved


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], put: Callable[[nn.Parameter, str, Tensor], None]
) -> None:
    """Pass every weight and moment to `put`, and copy the buffers. Raises KeyError if a weight or
    moment is missing."""
    for name, parameter in module.named_parameters():
        for part in (WEIGHT, *MOMENTS):
            put(parameter, part, state[f"{part}/{name}"].to(parameter.device))
    for name, buffer in module.named_buffers():
        if f"{BUFFER}/{name}" in state:
            buffer.copy_(state[f"{BUFFER}/{name}"])


def num_updates(optimizer: torch.optim.Optimizer) -> int:
    """Number of updates an Adam has made, the same for all its parameters."""
    steps = {int(state["step"]) for state in optimizer.state.values() if "step" in state}
    assert len(steps) <= 1, f"parameters with {steps} updates"
    return steps.pop() if steps else 0


def begin_adam(
    optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], updates: int
) -> None:
    """Give the parameters an Adam state after `updates` updates, with zero moments."""
    on_device = optimizer.defaults["fused"] or optimizer.defaults["capturable"]
    for parameter in parameters:
        device = parameter.device if on_device else "cpu"
        optimizer.state[parameter] = {  # type: ignore[index]
            "step": torch.tensor(float(updates), device=device),
            **{moment: torch.zeros_like(parameter.detach()) for moment in MOMENTS},
        }
