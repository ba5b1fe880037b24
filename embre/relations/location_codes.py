"""Features of the relation model: how near, how often and where two concepts meet in a document."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from embre.document import Document
from embre.relations.pair_location import Pair, PairLocator
from embre.shards.encode import SKIPPED_KINDS

# Proximity. The codes after SAME_SENTENCE are for two shared sentences, and for three or more.
FARTHER, NEXT_SENTENCE, SAME_SENTENCE = range(3)
NUM_PROXIMITIES = 5
NUM_MENTION_COUNTS = 5  # the last code is for four mentions or more
NUM_EIGHTHS = 8
NUM_LOCATION_CODES = 4


def location_codes(doc: Document, pairs: Sequence[Pair]) -> np.ndarray:
    """(P, 4) int64 codes of each pair, by sentences of the passages that the encoder reads.

    The columns are the proximity, the number of mentions of the rarer concept, and the eighths of
    the document (0 to 7) of the first and last sentence with both concepts, or of the two nearest
    sentences.
    """
    locator = PairLocator(_encoded_part(doc))
    found = [locator.locate(pair) for pair in pairs]
    shared = np.array([location.shared for location in found], dtype=np.int64)
    mentions = np.array([location.mentions for location in found], dtype=np.int64)
    neighbours = np.array([location.sentences == 1 for location in found], dtype=bool)
    proximity = np.where(neighbours, NEXT_SENTENCE, FARTHER)
    in_common = np.minimum(SAME_SENTENCE - 1 + shared, NUM_PROXIMITIES - 1)
    proximity = np.where(shared > 0, in_common, proximity)
    positions = np.array([(location.first, location.last) for location in found]).reshape(-1, 2)
    eighths = np.minimum((positions * NUM_EIGHTHS).astype(np.int64), NUM_EIGHTHS - 1)
    return np.column_stack([proximity, np.minimum(mentions, NUM_MENTION_COUNTS - 1), eighths])


def _encoded_part(doc: Document) -> Document:
    """The document without the passages that are not encoded, and without their mentions."""
    passages = tuple(p for p in doc.passages if p.kind not in SKIPPED_KINDS)
    if len(passages) == len(doc.passages):
        return doc
    mentions = (
        m for m in doc.mentions if any(m.start < p.end and p.start < m.end for p in passages)
    )
    return replace(doc, passages=passages, mentions=tuple(mentions))
