"""Compiled loops of `pubtator_plain`: find plain blocks of a file and their mentions."""

from typing import NamedTuple

import numpy as np
from numba import njit

MAX_DIGITS = 9  # of an id or an offset
MENTION_TABS = 5
MAX_MOVES = 256  # per mention of a document, in the insertion sort
MIN_RELATION_TABS, MAX_RELATION_TABS = 3, 5

_TAB, _NEWLINE, _RETURN, _BAR, _ZERO, _NINE = 9, 10, 13, 124, 48, 57
_LETTER_T, _LETTER_A, _LETTER_Z = 116, 97, 122
_NO_NUMBER = -1
# The columns of `Blocks`.
_START, _LINE, _PLAIN, _DIGITS, _TITLE, _TITLE_END, _ABSTRACT, _ABSTRACT_END = range(8)
# The columns of `MentionLines`.
_BLOCK, _FIRST, _LAST, _SURFACE, _SURFACE_END, _SPELLING, _SPELLING_END = range(7)


class Blocks(NamedTuple):
    """Columns (num_blocks,) of blocks, the runs of lines that are not blank.

    First byte; number of the line; whether it is plain; digits of its id; first and last byte of
    title and abstract.
    """

    start: np.ndarray
    line: np.ndarray
    plain: np.ndarray
    digits: np.ndarray
    title: np.ndarray
    title_end: np.ndarray
    abstract: np.ndarray
    abstract_end: np.ndarray


class MentionLines(NamedTuple):
    """Columns (num_mentions,) of the mention lines of plain blocks, sorted by characters.

    Index of the block; characters `start` to `end`; first and last byte of the surface, and of
    type and identifier, which a tab separates.
    """

    block: np.ndarray
    start: np.ndarray
    end: np.ndarray
    surface: np.ndarray
    surface_end: np.ndarray
    spelling: np.ndarray
    spelling_end: np.ndarray


@njit(cache=True)
def _number(data: np.ndarray, start: int, end: int) -> int:
    """Parse the digits in `data[start:end]`; _NO_NUMBER if it is not a number."""
    if not 0 < end - start <= MAX_DIGITS:
        return _NO_NUMBER
    value = 0
    for at in range(start, end):
        if not _ZERO <= data[at] <= _NINE:
            return _NO_NUMBER
        value = 10 * value + data[at] - _ZERO
    return value


@njit(cache=True)
def _same(data: np.ndarray, one: int, other: int, size: int) -> bool:
    for step in range(size):
        if data[one + step] != data[other + step]:
            return False
    return True


@njit(cache=True)
def _sort(lines: np.ndarray, first: int, last: int) -> bool:
    """Sort rows by start and end in place; False if two are equal or it takes too many moves."""
    num_moves, most_moves = 0, MAX_MOVES * (last - first)
    for row in range(first + 1, last):
        at = row
        while at > first and (
            lines[at - 1, _FIRST] > lines[at, _FIRST]
            or lines[at - 1, _FIRST] == lines[at, _FIRST]
            and lines[at - 1, _LAST] > lines[at, _LAST]
        ):
            for column in range(lines.shape[1]):
                lines[at, column], lines[at - 1, column] = lines[at - 1, column], lines[at, column]
            at -= 1
            num_moves += 1
        if num_moves > most_moves:
            return False
    for row in range(first + 1, last):
        same = lines[row - 1, _FIRST] == lines[row, _FIRST]
        if same and lines[row - 1, _LAST] == lines[row, _LAST]:
            return False
    return True


@njit(cache=True)
def _scan_line(data: np.ndarray, at: int, tabs: np.ndarray) -> tuple[int, int, bool]:
    """Return the end of a line, its number of tabs, and whether it is plain; fill in `tabs`."""
    num_tabs, plain = 0, True
    while at < len(data) and data[at] != _NEWLINE:
        byte = data[at]
        if byte == _TAB:
            tabs[min(num_tabs, MENTION_TABS)] = at
            num_tabs += 1
        elif byte >= 128 or byte == _RETURN or byte == 0:
            plain = False
        at += 1
    return at, num_tabs, plain


@njit(cache=True)
def _id_of_title(data: np.ndarray, begin: int, end: int) -> tuple[int, int]:
    """Return number of digits and id of a line `digits|t|title`; _NO_NUMBER for another line."""
    mark = begin
    while mark < end and _ZERO <= data[mark] <= _NINE:
        mark += 1
    titled = mark + 2 < end and data[mark] == _BAR and data[mark + 1] == _LETTER_T
    if titled and data[mark + 2] == _BAR:
        return mark - begin, _number(data, begin, mark)
    return mark - begin, _NO_NUMBER


@njit(cache=True)
def _is_abstract(data: np.ndarray, block: np.ndarray, begin: int, end: int) -> bool:
    """Whether a line is `digits|a|abstract` with the digits of the block."""
    mark = begin + block[_DIGITS]
    return (
        mark + 3 <= end
        and _same(data, block[_START], begin, block[_DIGITS] + 1)
        and data[mark + 1] == _LETTER_A
        and data[mark + 2] == _BAR
    )


@njit(cache=True)
def _read_mention(
    data: np.ndarray, block: np.ndarray, tabs: np.ndarray, end: int, row: np.ndarray
) -> bool:
    """Fill in the row of a mention line except its block; False if the text does not match."""
    start, last = _number(data, tabs[0] + 1, tabs[1]), _number(data, tabs[1] + 1, tabs[2])
    title_size = block[_TITLE_END] - block[_TITLE]
    there = block[_TITLE] + start
    if last > title_size:
        there = block[_ABSTRACT] + start - title_size - 1
    row[_FIRST], row[_LAST] = start, last
    row[_SURFACE], row[_SURFACE_END] = tabs[2] + 1, tabs[3]
    row[_SPELLING], row[_SPELLING_END] = tabs[3] + 1, end
    return (
        0 <= start < last
        and last - start == tabs[3] - tabs[2] - 1
        and (last <= title_size or start > title_size)
        and there + last - start <= block[_ABSTRACT_END]
        and _same(data, tabs[2] + 1, there, last - start)
    )


@njit(cache=True)
def _read_block(
    data: np.ndarray, at: int, block: np.ndarray, lines: np.ndarray, found: int, tabs: np.ndarray
) -> tuple[int, int, int, bool, int]:
    """Fill in the row of the block at `at`, and the rows of its mentions from `found` on.

    Returns its end, number of lines, id, whether it is plain, and the new number of mentions.
    """
    num_lines, number, plain = 0, _NO_NUMBER, True
    block[_START] = at
    while at < len(data) and data[at] != _NEWLINE:
        begin = at
        end, num_tabs, plain_bytes = _scan_line(data, begin, tabs)
        at = min(end + 1, len(data))
        plain = plain and plain_bytes
        if num_lines == 0:
            digits, number = _id_of_title(data, begin, end)
            plain = plain and number != _NO_NUMBER and num_tabs == 0
            block[_DIGITS], block[_TITLE], block[_TITLE_END] = digits, begin + digits + 3, end
        elif num_lines == 1:
            plain = plain and num_tabs == 0 and _is_abstract(data, block, begin, end)
            block[_ABSTRACT], block[_ABSTRACT_END] = begin + block[_DIGITS] + 3, end
        elif plain:
            after_id = begin + block[_DIGITS]
            plain = num_tabs > 0 and tabs[0] == after_id
            plain = plain and _same(data, block[_START], begin, block[_DIGITS])
            letter = data[min(after_id + 1, end - 1)] | 32  # in lower case
            if _LETTER_A <= letter <= _LETTER_Z:
                plain = plain and MIN_RELATION_TABS <= num_tabs <= MAX_RELATION_TABS
            else:
                plain = plain and num_tabs == MENTION_TABS
                plain = plain and _read_mention(data, block, tabs, end, lines[found])
                found += plain
        num_lines += 1
    return at, num_lines, number, plain and num_lines >= 2, found


@njit(cache=True)
def find_blocks(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find all blocks (num_blocks, 8) and the mentions of plain ones (num_mentions, 7), int64.

    The columns are those of `Blocks` and `MentionLines`.
    """
    most_lines = 1
    for byte in data:
        most_lines += byte == _NEWLINE
    blocks = np.zeros((most_lines, 8), dtype=np.int64)
    lines = np.empty((most_lines, 7), dtype=np.int64)
    tabs = np.empty(MENTION_TABS + 1, dtype=np.int64)
    num_blocks, num_found = 0, 0
    at, line, last_number, first_of_last = 0, 0, _NO_NUMBER, 0
    while at < len(data):
        if data[at] == _NEWLINE:
            at += 1
            line += 1
            continue
        block, first_found = blocks[num_blocks], num_found
        block[_LINE] = line
        at, num_lines, number, plain, num_found = _read_block(
            data, at, block, lines, first_found, tabs
        )
        line += num_lines
        # Blocks with one id may be pieces of one article, which are joined elsewhere.
        if number != _NO_NUMBER and number == last_number:
            plain = False
            blocks[num_blocks - 1, _PLAIN] = False
            first_found = first_of_last
        plain = plain and _sort(lines, first_found, num_found)
        if plain:
            lines[first_found:num_found, _BLOCK] = num_blocks
        else:
            num_found = first_found
        block[_PLAIN] = plain
        last_number, first_of_last = number, first_found
        num_blocks += 1
    return blocks[:num_blocks], lines[:num_found]
