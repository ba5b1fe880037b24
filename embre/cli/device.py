"""The device that a command is told."""

import torch

from embre.refused import Refused


def device_named(name: str, here: bool = True) -> torch.device:
    """The device that `--device` names; with `here` one that this machine has.

    Raises Refused, where torch would fail in several ways and late.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise Refused(f"--device {name}: give cpu, or cuda for a GPU (cuda:1 for the second)")
    if device.type == "cuda" and here and (device.index or 0) >= torch.cuda.device_count():
        raise Refused(
            f"--device {name}: torch sees {torch.cuda.device_count()} GPUs on this machine; give "
            "--device cpu, or look with `embre doctor` at what is missing"
        )
    return device
