"""Rule-based sentence splitting for abstracts."""

import re
from bisect import bisect_right

from embre.document import Document

# An end mark, closing brackets and quotes, white space, then a possible sentence start.
_BREAK = re.compile(r"[.!?][)\]\"'”’]*\s+(?=[\"'“‘(\[]*[A-Z0-9])")
# Abbreviations, whose full stop does not end a sentence: "vs. Placebo", "E. coli", "Fig. 2".
_ABBREVIATION = re.compile(
    r"(?:\b(?:vs|al|i\.e|e\.g|cf|ca|approx|Fig|Figs|Dr|Mr|Mrs|Ms|No|Nos|St|spp?|subsp|var|resp|Eq)"
    r"|(?<![\w.])[A-Z])\.$"
)


def sentence_starts(doc: Document) -> list[int]:
    """Sorted character offsets of the sentences. Every passage starts one; no mention is split."""
    starts = {passage.start for passage in doc.passages} | {0}
    inside = {place for mention in doc.mentions for place in range(mention.start + 1, mention.end)}
    for passage in doc.passages:
        for found in _BREAK.finditer(doc.text, passage.start, passage.end):
            before = doc.text[max(found.start() - 12, passage.start) : found.start() + 1]
            if found.end() not in inside and not _ABBREVIATION.search(before):
                starts.add(found.end())
    return sorted(starts)


def sentence_of(starts: list[int], place: int) -> int:
    """The index of the sentence that contains a character offset."""
    return max(bisect_right(starts, place) - 1, 0)


def sentence_text(doc: Document, starts: list[int], number: int) -> str:
    """The text of a sentence, stripped."""
    ends = [*starts[1:], len(doc.text)]
    return doc.text[starts[number] : ends[number]].strip()
