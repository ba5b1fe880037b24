"""Hash of the content of a micro-batch: equal hashes mean equal texts and masks."""

import hashlib
from collections.abc import Iterable

from torch import Tensor


def data_hash(slot: int, tensors: Iterable[Tensor]) -> int:
    """32-bit hash of a micro-batch and its slot; 0 for an empty one (slot < 0).

    32 bits, so that the sum over the slots of a step stays exact in float64.
    """
    if slot < 0:
        return 0
    digest = hashlib.blake2b(str(slot).encode(), digest_size=4)
    for tensor in tensors:
        digest.update(tensor.numpy().data)
    return int.from_bytes(digest.digest(), "little")
