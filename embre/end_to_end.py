"""Lists of values laid end to end: where each begins, and where a value stands in its own."""

from collections.abc import Sequence

import numpy as np


def starts_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """(n + 1,) where each of n lists begins, and where the last ends.

    >>> starts_of([2, 0, 3]).tolist()
    [0, 2, 2, 5]
    """
    return np.append(0, np.cumsum(lengths, dtype=np.int64))


def within(lengths: np.ndarray) -> np.ndarray:
    """The place of each value in its own list; `lengths` (n,) are whole numbers.

    >>> within(np.array([2, 0, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    begins = starts_of(lengths)
    return np.arange(begins[-1]) - np.repeat(begins[:-1], lengths)
