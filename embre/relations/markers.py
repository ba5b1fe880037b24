"""Typed markers around mentions, and overlapping windows over long documents.

`BRAF causes melanoma` becomes `[Gene] BRAF [/Gene] causes [Disease] melanoma [/Disease]`.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tokenizers import AddedToken, Tokenizer

from embre.entity_types import ENTITY_TYPES
from embre.refused import Refused
from embre.tokenization.tokenizer import TextTokenizer

# The start and the end marker of each type, in the order of the table of types.
MARKERS = tuple(f"[{slash}{name}]" for name in ENTITY_TYPES for slash in ("", "/"))

Window = tuple[int, int]


def add_markers(tokenizer: TextTokenizer) -> TextTokenizer:
    """Add MARKERS to a copy of the tokenizer, after its own ids; existing markers keep theirs.

    Text that spells a marker or a special token, such as `[Gene]`, is tokenised as plain text.
    """
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    backend.add_special_tokens([AddedToken(marker, special=True) for marker in MARKERS])
    backend.encode_special_tokens = True
    return replace(tokenizer, backend=backend, vocabulary=backend.get_vocab_size())


def marker_ids(tokenizer: TextTokenizer) -> np.ndarray:
    """(num_types, 2) ids of the start and end marker of each type; Refused if there are none."""
    found = [tokenizer.backend.token_to_id(marker) for marker in MARKERS]
    if None in found:
        raise Refused("the tokenizer has no entity markers; extend it with add_markers")
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def marker_names(tokenizer: TextTokenizer) -> list[tuple[int, list[int]]]:
    """The id of each marker with the word pieces of its type's name: `[CellLine]` and `[/CellLine]`
    each with those of "Cell Line"."""
    spelt = [re.sub("(?<=[a-z])(?=[A-Z])", " ", name) for name in ENTITY_TYPES]
    pieces = [tokenizer.backend.encode(name, add_special_tokens=False).ids for name in spelt]
    return [
        (marker, of_name)
        for both, of_name in zip(marker_ids(tokenizer).tolist(), pieces, strict=True)
        for marker in both
    ]


def mark(
    tokens: np.ndarray, spans: Sequence[tuple[int, int, int]], ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Insert markers around each span; return the tokens and the new spans (num_spans, 2).

    `spans` are distinct (start, end, type) over `tokens`; the new spans are half-open and include
    both markers. If spans touch, the earlier one closes before the later one opens; if they nest,
    the longer one is outside.
    """
    opening = [(start, 1, -end, kind, i) for i, (start, end, kind) in enumerate(spans)]
    closing = [(end, 0, -start, -kind, i) for i, (start, end, kind) in enumerate(spans)]
    events = sorted(opening + closing)
    places = np.array([event[0] for event in events], dtype=np.int64)
    opens = np.array([event[1] for event in events], dtype=bool)
    owners = np.array([event[4] for event in events], dtype=np.int64)
    kinds = np.array([spans[i][2] for i in owners], dtype=np.int64)
    marked = np.insert(tokens, places, ids[kinds, np.where(opens, 0, 1)])
    spots = places + np.arange(len(events))
    found = np.zeros((len(spans), 2), dtype=np.int64)
    found[owners[opens], 0] = spots[opens]
    found[owners[~opens], 1] = spots[~opens] + 1
    return marked, found


def cut_windows(num_tokens: int, spans: np.ndarray, size: int, overlap: int) -> list[Window]:
    """Windows of at most `size` tokens that together cover all tokens.

    Neighbours overlap by about `overlap` tokens. Cuts fall between `spans` (num_spans, 2), so a
    mention is whole in every window with it, unless it is longer than a window. Raises Refused
    unless overlap < size.
    """
    if not overlap < size:
        raise Refused(
            f"windows of {size} tokens cannot overlap by {overlap}: lower pairs.window_overlap "
            "or raise data.max_document_tokens"
        )
    between = np.ones(num_tokens + 1, dtype=bool)
    for start, end in spans:
        between[start + 1 : end] = False
    windows, start = [], 0
    while start + size < num_tokens:
        end = _last_cut(between, start, start + size) or start + size
        windows.append((start, end))
        start = _last_cut(between, start, end - overlap) or end
    return [*windows, (start, num_tokens)]


def _last_cut(between: np.ndarray, after: int, until: int) -> int | None:
    """The last place in (after, until] where no mention is cut."""
    places = np.flatnonzero(between[after + 1 : max(until, after) + 1])
    return after + 1 + int(places[-1]) if len(places) else None
