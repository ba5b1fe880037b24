"""What a rank that uses DeepSpeed would import for seconds; the fork server of `ranks` imports it.

A module of its own because importing it settles for good that DeepSpeed uses the CPU.
"""

import torch

from embre.engines.deepspeed_engine import import_deepspeed

import_deepspeed(torch.device("cpu"))
# DeepSpeed imports it when it makes an engine, and torch's compiler with it.
import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: E402, F401
