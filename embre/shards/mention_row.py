"""A row of the mention table: a token span with its entity type and concept hash."""

import numpy as np

from embre.entity_types import TYPE_INDEX

# One row per mention and concept: a mention of two concepts has two rows with one span.
MENTION_ROW = np.dtype([("start", "<u4"), ("end", "<u4"), ("type", "u1"), ("concept", "<u8")])


def last_of_span(rows: np.ndarray) -> np.ndarray:
    """(num_rows,) bool: the row is the last of its span and type, which is true once per mention.

    Consecutive rows with one span and type are one mention of several concepts, concept 0 first.
    """
    last = np.ones(len(rows), dtype=bool)
    spans = (rows[name] for name in ("start", "end", "type"))
    last[:-1] = np.logical_or.reduce([span[1:] != span[:-1] for span in spans])
    return last


def count_types(rows: np.ndarray) -> np.ndarray:
    """(num_types,) number of mention rows by type."""
    return np.bincount(rows["type"], minlength=len(TYPE_INDEX))
