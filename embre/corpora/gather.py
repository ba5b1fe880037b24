"""Concatenate slices of a byte array: Arrow's `take` for strings, but much faster."""

import numpy as np
from numba import njit


@njit(cache=True)
def gather(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate `data[starts[n]:ends[n]]` (uint8).

    Returns the bytes and their offsets, int64 (num_runs + 1,), the last being the total length.
    """
    offsets = np.zeros(len(starts) + 1, dtype=np.int64)
    offsets[1:] = np.cumsum(ends - starts)
    pieces = np.empty(offsets[-1], dtype=np.uint8)
    for run in range(len(starts)):
        pieces[offsets[run] : offsets[run + 1]] = data[starts[run] : ends[run]]
    return pieces, offsets
