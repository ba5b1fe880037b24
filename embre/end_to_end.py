"""Ragged lists as flat arrays: the offset of each list, the index of each value in its list."""

from collections.abc import Sequence

import numpy as np


def starts_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """(n + 1,) offsets of n lists in the flat array; the last is the array's length.

    >>> starts_of([2, 0, 3]).tolist()
    [0, 2, 2, 5]
    """
    return np.append(0, np.cumsum(lengths, dtype=np.int64))


def within(lengths: np.ndarray) -> np.ndarray:
    """The index of each value in its list, for lists of `lengths` (n,).

    >>> within(np.array([2, 0, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    starts = starts_of(lengths)
    return np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
