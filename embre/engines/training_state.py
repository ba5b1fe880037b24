"""The state of training by the names of parameters: the same whoever holds it, cut in any way.

A parameter has a weight and the two moments of Adam, all float32. Each rank gives a share of the
whole, so a run goes on at another number of ranks or another stage of ZeRO.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from embre.world import World

WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
BUFFER = "buffer"
UPDATES = "updates"  # how many the optimizer has made


def share_of_state(
    world: World,
    module: nn.Module,
    num_updates: int,
    whole: Callable[[nn.Parameter, str], Tensor],
) -> dict[str, Tensor]:
    """This rank's share, copied to the CPU: `weight/NAME`, `exp_avg/NAME` and so on.

    `whole` gives a parameter's weight or moment in full. It may be a collective: all ranks ask it
    for everything, in one order.
    """
    share: dict[str, Tensor] = {}
    for number, (name, parameter) in enumerate(module.named_parameters()):
        for part in (WEIGHT, *MOMENTS):
            value = whole(parameter, part).detach()
            if number % world.size == world.rank:
                share[f"{part}/{name}"] = value.to("cpu", torch.float32, copy=True)
    if world.rank == 0:
        share[UPDATES] = torch.tensor(num_updates)
        for name, buffer in module.state_dict().items():
            if name in dict(module.named_buffers()):
                share[f"{BUFFER}/{name}"] = buffer.detach().to("cpu", copy=True)
    return share


def checksum(parameters: Iterable[Tensor]) -> int:
    """64 bits that change with any bit of the parameters, for one wait for the device."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = torch.stack(
        [
            parameter.detach().reshape(-1).view(bits[parameter.element_size()]).sum()
            for parameter in parameters
        ]
    )
    # By odd numbers, so that what moves from one parameter to another is seen.
    return int((sums * (2 * torch.arange(len(sums), device=sums.device) + 1)).sum())


def on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict on the CPU, where tied weights are still one tensor."""
    copies: dict[tuple[object, ...], Tensor] = {}
    found = {}
    for name, value in state.items():
        key = value.data_ptr(), value.dtype, value.shape, value.stride()
        if key not in copies:
            copies[key] = value.detach().cpu()
        found[name] = copies[key]
    return found


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], put: Callable[[nn.Parameter, str, Tensor], None]
) -> None:
    """Hand every part of the whole state to `put`; KeyError where one is missing."""
    for name, parameter in module.named_parameters():
        for part in (WEIGHT, *MOMENTS):
            put(parameter, part, state[f"{part}/{name}"].to(parameter.device))
    for name, buffer in module.named_buffers():
        if f"{BUFFER}/{name}" in state:
            buffer.copy_(state[f"{BUFFER}/{name}"])


def num_updates(optimizer: torch.optim.Optimizer) -> int:
    """The updates that an Adam has made of each of its parameters."""
    steps = {int(state["step"]) for state in optimizer.state.values() if "step" in state}
    assert len(steps) <= 1, f"parameters with {steps} updates"
    return steps.pop() if steps else 0


def begin_adam(
    optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], updates: int
) -> None:
    """Give parameters of an Adam a state of that many updates, moments still to be set."""
    on_device = optimizer.defaults["fused"] or optimizer.defaults["capturable"]
    for parameter in parameters:
        device = parameter.device if on_device else "cpu"
        optimizer.state[parameter] = {  # type: ignore[index]
            "step": torch.tensor(float(updates), device=device),
            **{moment: torch.zeros_like(parameter.detach()) for moment in MOMENTS},
        }
