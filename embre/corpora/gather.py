"""Runs of bytes out of a long array, put end to end: what Arrow's `take` does, and much sooner."""

import numpy as np
from numba import njit


@njit(cache=True)
def gather(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes `starts[n]` to `ends[n]` of data (uint8), and where each run begins.

    The second (num_runs + 1,) has the end of the last run too.
    """
    offsets = np.zeros(len(starts) + 1, dtype=np.int64)
    offsets[1:] = np.cumsum(ends - starts)
    pieces = np.empty(offsets[-1], dtype=np.uint8)
    for run in range(len(starts)):
        pieces[offsets[run] : offsets[run + 1]] = data[starts[run] : ends[run]]
    return pieces, offsets
