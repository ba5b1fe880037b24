"""A row of the mention table: a span of tokens, and the type and the concept it is said to be."""

import numpy as np

from embre.entity_types import TYPE_INDEX

# One row per mention and concept: a mention of two concepts has two rows with one span.
MENTION_ROW = np.dtype([("start", "<u4"), ("end", "<u4"), ("type", "u1"), ("concept", "<u8")])


def last_of_span(rows: np.ndarray) -> np.ndarray:
    """(num_rows,) whether a mention row is the last of its span and type: one for each mention.

    Rows with one span are one mention of several concepts. They stand together, 0 before others.
    """
    last = np.ones(len(rows), dtype=bool)
    spans = (rows[name] for name in ("start", "end", "type"))
    last[:-1] = np.logical_or.reduce([span[1:] != span[:-1] for span in spans])
    return last


def count_types(rows: np.ndarray) -> np.ndarray:
    """(num_types,) how many mention rows are of each type."""
    return np.bincount(rows["type"], minlength=len(TYPE_INDEX))
