"""Counter-based random numbers for masking.

Every draw is a hash of (seed, epoch, document, position or concept), so the mask of a document
depends on the epoch but not on rank, loader worker or order.
"""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection on 64 bits that scatters neighbours: the finaliser of SplitMix64.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    mixed = np.array(values, dtype=np.uint64)  # a copy, worked on in place: strips are long
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def combine(first: np.ndarray, second: np.ndarray | int) -> np.ndarray:
    """Derive a key from a key and a number n: output n of SplitMix64 seeded with the key. Not
    symmetric."""
    with np.errstate(over="ignore"):
        return mix(first + GOLDEN * (np.asarray(second).astype(np.uint64) + np.uint64(1)))


def bernoulli(keys: np.ndarray, share: float) -> np.ndarray:
    """(n,) true with probability `share`. The mixed key is itself the draw; use `uniform` for
    further draws."""
    return keys >> np.uint64(1) < np.uint64(int(share * 2**63))


def uniform(keys: np.ndarray, purpose: int) -> np.ndarray:
    """(n,) numbers in [0, 1), one per key; independent for different purposes."""
    return (combine(keys, purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53
