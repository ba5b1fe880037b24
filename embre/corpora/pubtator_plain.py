"""PubTator text by the chunk: the documents without anything unusual, all at once.

A plain document is ASCII: a title, an abstract, mention lines that the text bears out, each at a
place of its own, and perhaps relations. numpy finds those and reads their mentions as columns. All
else is left to the careful reader, which knows every rule; what is plain it would read alike.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from embre.corpora.assemble import lay_out
from embre.corpora.raw import CheckedDocument, Chunk, RawPassage
from embre.tally import Tally

MAX_BYTES = 1 << 24  # only a chunk of one enormous document is larger
MAX_DIGITS = 9  # of an id or an offset
MENTION_TABS = 5
RELATION_TABS = (3, 4, 5)


class PlainDocuments(NamedTuple):
    """Checked documents without their mentions, and the mentions of all as columns.

    `doc_of`, `starts`, `ends` (num_mentions,): the document's place in `docs`, and characters of
    it, in order. `surfaces` and `spellings` (type, tab, identifier) are Arrow strings.
    """

    docs: list[CheckedDocument]
    doc_of: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    surfaces: pa.Array
    spellings: pa.Array


class _Lines(NamedTuple):
    """(num_lines,) of the lines that are not blank: bytes, block, tabs, number of the first tab.

    `first` (num_blocks + 1,) is the first line of each block, `tabs` where all tabs are.
    """

    start: np.ndarray
    end: np.ndarray
    block: np.ndarray
    num_tabs: np.ndarray
    first_tab: np.ndarray
    first: np.ndarray
    tabs: np.ndarray


class _Headings(NamedTuple):
    """(num_blocks,) id and its digits, where title and abstract begin, and how long they are."""

    number: np.ndarray
    digits: np.ndarray
    title: np.ndarray
    title_size: np.ndarray
    abstract: np.ndarray
    abstract_size: np.ndarray


def read_plain(chunk: Chunk) -> tuple[PlainDocuments, list[Chunk]]:
    """The plain documents of a chunk, and what is left of it."""
    if len(chunk.data) >= MAX_BYTES:
        nowhere, nothing = np.zeros(0, dtype=np.int64), pa.array([], pa.string())
        return PlainDocuments([], nowhere, nowhere, nowhere, nothing, nothing), [chunk]
    data = np.frombuffer(chunk.data, dtype=np.uint8)
    lines = _find_lines(data)
    headings, plain = _read_headings(chunk.data, lines)
    odd = np.flatnonzero((data >= 128) | (data == ord("\r")) | (data == 0))
    plain[lines.block[np.maximum(np.searchsorted(lines.start, odd, side="right") - 1, 0)]] = False
    rows = _mention_lines(data, lines, headings, plain)
    tabs = lines.tabs[lines.first_tab[rows][:, None] + np.arange(MENTION_TABS)]
    block = lines.block[rows]
    starts, known = _numbers(data, tabs[:, 0] + 1, tabs[:, 1])
    ends, known_too = _numbers(data, tabs[:, 1] + 1, tabs[:, 2])
    surface = tabs[:, 2] + 1, tabs[:, 3]
    borne_out = known & known_too
    borne_out &= _is_there(data, headings, block, starts, ends, *surface, borne_out)
    plain[block[~borne_out]] = False
    # Nearly in order already, and one number sorts quickest.
    place = (block << 48) | (starts << 24) | (ends & 0xFFFFFF)
    order = np.argsort(place, kind="stable")
    again = np.diff(place[order]) == 0
    plain[block[order[1:][again]]] = False
    order = order[plain[block[order]]]
    return PlainDocuments(
        docs=_documents(chunk, lines, headings, plain),
        doc_of=(np.cumsum(plain) - 1)[block[order]],
        starts=starts[order],
        ends=ends[order],
        surfaces=_slices(data, *surface).take(pa.array(order)),
        spellings=_slices(data, tabs[:, 3] + 1, lines.end[rows]).take(pa.array(order)),
    ), _rest(chunk, lines, plain)


def _find_lines(data: np.ndarray) -> _Lines:
    newlines = np.flatnonzero(data == ord("\n"))
    start, end = np.append(0, newlines + 1), np.append(newlines, len(data))
    block = np.cumsum(start == end)
    start, end, block = (column[start < end] for column in (start, end, block))
    begins = np.append(True, np.diff(block) > 0)[: len(block)]
    tabs = np.flatnonzero(data == ord("\t"))
    first_tab = np.searchsorted(tabs, start)
    return _Lines(
        start=start,
        end=end,
        block=np.cumsum(begins) - 1,
        num_tabs=np.searchsorted(tabs, end) - first_tab,
        first_tab=first_tab,
        first=np.append(np.flatnonzero(begins), len(start)),
        # Room to look behind the last one.
        tabs=np.append(tabs, np.full(MENTION_TABS, len(data))),
    )


def _read_headings(data: bytes, lines: _Lines) -> tuple[_Headings, np.ndarray]:
    """Title and abstract of each block, and which blocks have both."""
    num_blocks = len(lines.first) - 1
    found = np.zeros((num_blocks, 6), dtype=np.int64)
    plain = np.diff(lines.first) >= 2
    heads = np.minimum(lines.first[:-1, None] + [0, 1], len(lines.start) - 1)
    plain &= lines.num_tabs[heads].sum(axis=1) == 0
    rows = zip(lines.start[heads].tolist(), lines.end[heads].tolist(), strict=True)
    for number, ((title, abstract), (title_end, abstract_end)) in enumerate(rows):
        mark = data.find(b"|t|", title, title_end)
        name = data[title:mark] if mark > 0 else b""
        usual = name.isdigit() and len(name) <= MAX_DIGITS
        found[number, 0] = int(name) if usual else 0
        if usual and data.startswith(name + b"|a|", abstract, abstract_end):
            begins = mark + 3, abstract + len(name) + 3
            sizes = title_end - begins[0], abstract_end - begins[1]
            found[number] = int(name), len(name), begins[0], sizes[0], begins[1], sizes[1]
        else:
            plain[number] = False
    headings = _Headings(*found.T)
    # Blocks of one id may be pieces of one article, which are put together elsewhere.
    same = np.flatnonzero(np.diff(headings.number) == 0)
    plain[same] = plain[same + 1] = False
    return headings, plain


def _mention_lines(
    data: np.ndarray, lines: _Lines, headings: _Headings, plain: np.ndarray
) -> np.ndarray:
    """The lines that look like mentions, in blocks whose other lines are as usual as they."""
    behind = np.arange(len(lines.start)) - lines.first[lines.block] >= 2
    rows = np.flatnonzero(behind & plain[lines.block])
    block, tab = lines.block[rows], lines.tabs[lines.first_tab[rows]]
    number, known = _numbers(data, lines.start[rows], tab)
    same_id = known & (number == headings.number[block])
    same_id &= tab - lines.start[rows] == headings.digits[block]
    letter = data[np.minimum(tab + 1, len(data) - 1)] | 32  # in lower case
    relation = (letter >= ord("a")) & (letter <= ord("z"))
    relation &= np.isin(lines.num_tabs[rows], RELATION_TABS)
    mention = ~relation & (lines.num_tabs[rows] == MENTION_TABS)
    plain[block[~same_id | ~(relation | mention)]] = False
    return rows[mention & plain[block]]


def _numbers(data: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the numbers that stand at some places, and whether it is one that stands there."""
    size, value = end - start, np.zeros(len(start), dtype=np.int64)
    known = (size > 0) & (size <= MAX_DIGITS)
    for place in range(min(MAX_DIGITS, int(size.max(initial=0)))):
        digit = data[np.minimum(start + place, len(data) - 1)].astype(np.int64) - ord("0")
        inside = place < size
        known &= ~inside | ((digit >= 0) & (digit <= 9))
        value = np.where(inside, value * 10 + digit, value)
    return value, known


def _is_there(
    data: np.ndarray,
    headings: _Headings,
    block: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    surface_start: np.ndarray,
    surface_end: np.ndarray,
    known: np.ndarray,
) -> np.ndarray:
    """(n,) whether a surface stands in the title, or in the abstract, where it claims to be."""
    size = headings.title_size[block]
    in_title = ends <= size
    in_abstract = (starts > size) & (ends <= size + 1 + headings.abstract_size[block])
    there = known & (starts < ends) & (in_title | in_abstract)
    there &= ends - starts == surface_end - surface_start
    at = np.where(in_title, headings.title[block], headings.abstract[block] - size - 1) + starts
    rows = np.flatnonzero(there)
    lengths = (ends - starts)[rows]
    before = np.cumsum(lengths) - lengths
    step = np.arange(int(lengths.sum()))
    same = data[step + np.repeat(at[rows] - before, lengths)]
    same = same == data[step + np.repeat(surface_start[rows] - before, lengths)]
    there[rows] = np.logical_and.reduceat(same, before) if len(rows) else there[rows]
    return there


def _slices(data: np.ndarray, start: np.ndarray, end: np.ndarray) -> pa.Array:
    """Pieces of the data, which follow each other, as Arrow strings; nothing between is copied."""
    bounds = np.empty(2 * len(start), dtype=np.int64)
    bounds[0::2], bounds[1::2] = start, end
    offsets = np.append(bounds, len(data))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    pieces = pa.LargeStringArray.from_buffers(len(bounds), buffers[1], buffers[2])
    return pieces.take(pa.array(np.arange(0, len(bounds), 2))).cast(pa.string())


def _documents(
    chunk: Chunk, lines: _Lines, headings: _Headings, plain: np.ndarray
) -> list[CheckedDocument]:
    docs = []
    of_plain = zip(
        *(column[plain].tolist() for column in (lines.start[lines.first[:-1]], *headings)),
        strict=True,
    )
    for line, _, digits, title, title_size, abstract, abstract_size in of_plain:
        doc_id = chunk.data[line : line + digits].decode()
        texts = (
            chunk.data[title : title + title_size],
            chunk.data[abstract : abstract + abstract_size],
        )
        passages = [
            RawPassage(0, texts[0].decode(), "title"),
            RawPassage(title_size + 1, texts[1].decode(), "abstract"),
        ]
        text, placed = lay_out(passages, doc_id, Tally())
        docs.append(CheckedDocument(doc_id, doc_id, None, text, placed, [], chunk.file))
    return docs


def _rest(chunk: Chunk, lines: _Lines, plain: np.ndarray) -> list[Chunk]:
    """The blocks that are not plain, those that follow each other together."""
    rest = []
    newlines = np.flatnonzero(np.frombuffer(chunk.data, dtype=np.uint8) == ord("\n"))
    change = np.flatnonzero(np.diff(np.concatenate([[True], plain, [True]])))
    begins = np.append(lines.start, len(chunk.data))[lines.first]
    for first, last in change.reshape(-1, 2):
        start, end = int(begins[first]), int(begins[last])
        line = chunk.line + int(np.searchsorted(newlines, start))
        rest.append(chunk._replace(line=line, data=chunk.data[start:end]))
    return rest
