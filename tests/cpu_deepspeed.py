"""What a rank that uses DeepSpeed would import for seconds; the fork server of `ranks` imports it.

A module of its own because importing it settles for good that DeepSpeed uses the CPU.
"""

import torch

from embre.engines.deepspeed_engine import import_deepspeed

import_deepspeed(torch.device("cpu"))
