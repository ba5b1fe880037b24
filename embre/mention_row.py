"""A row of the mention table: a span of tokens, and the type and the concept it is said to be."""

import numpy as np

# One row per mention and concept: a mention of two concepts has two rows with one span.
MENTION_ROW = np.dtype([("start", "<u4"), ("end", "<u4"), ("type", "u1"), ("concept", "<u8")])
