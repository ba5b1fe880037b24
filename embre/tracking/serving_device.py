"""The device on which a registered model is served."""

import os

import torch

from embre.refused import Refused


def serving_device() -> torch.device:
    """The device of EMBRE_DEVICE if set, else a GPU if there is one, else the CPU.

    Raises Refused for an unknown device.
    """
    name = os.environ.get("EMBRE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise Refused(f"EMBRE_DEVICE={name}: give cpu, or cuda (cuda:1 for the second)") from error
