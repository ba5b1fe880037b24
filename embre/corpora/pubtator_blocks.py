"""The compiled loops of `pubtator_plain`: which blocks of a file are plain, and their mentions."""

from typing import NamedTuple

import numpy as np
from numba import njit

MAX_DIGITS = 9  # of an id or an offset
MENTION_TABS = 5
MOST_MOVES = 256  # for each mention of a document, to bring them in order one by one
LEAST_RELATION_TABS, MOST_RELATION_TABS = 3, 5

_TAB, _NEWLINE, _RETURN, _BAR, _ZERO, _NINE = 9, 10, 13, 124, 48, 57
_LETTER_T, _LETTER_A, _LETTER_Z = 116, 97, 122
_NO_NUMBER = -1


class Blocks(NamedTuple):
    """(num_blocks,) of the runs of lines that are not blank.

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
    """(num_mentions,) of the mention lines of plain blocks, in the order of their characters.

    Number of the block; characters `start` to `end`; first and last byte of the surface, and of
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
    """The number that stands somewhere, or _NO_NUMBER."""
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
    """Sort rows by start and end, in place; False where two have the same, or it takes long."""
    num_moves, most_moves = 0, MOST_MOVES * (last - first)
    for row in range(first + 1, last):
        at = row
        while at > first and (
            lines[at - 1, 1] > lines[at, 1]
            or (lines[at - 1, 1] == lines[at, 1] and lines[at - 1, 2] > lines[at, 2])
        ):
            for column in range(lines.shape[1]):
                lines[at, column], lines[at - 1, column] = lines[at - 1, column], lines[at, column]
            at -= 1
            num_moves += 1
        if num_moves > most_moves:
            return False
    for row in range(first + 1, last):
        if lines[row - 1, 1] == lines[row, 1] and lines[row - 1, 2] == lines[row, 2]:
            return False
    return True


@njit(cache=True)
def find_blocks(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All blocks of a file (num_blocks, 8), and the mentions of plain ones (num_mentions, 7).

    The columns are those of `Blocks` and `MentionLines`.
    """
    num_lines = 1
    for byte in data:
        num_lines += byte == _NEWLINE
    blocks = np.zeros((num_lines, 8), dtype=np.int64)
    lines = np.empty((num_lines, 7), dtype=np.int64)
    tabs = np.empty(MENTION_TABS + 1, dtype=np.int64)
    num_blocks, num_found, first_of_last = 0, 0, 0
    at, line, size = 0, 0, len(data)
    while at < size:
        if data[at] == _NEWLINE:
            at += 1
            line += 1
            continue
        block = blocks[num_blocks]
        block[0], block[1] = at, line
        plain, of_block, first_found = True, 0, num_found
        digits, number, title, title_end, abstract, abstract_end = 0, _NO_NUMBER, 0, 0, 0, 0
        while at < size and data[at] != _NEWLINE:
            begin, num_tabs = at, 0
            while at < size and data[at] != _NEWLINE:
                byte = data[at]
                if byte == _TAB:
                    tabs[min(num_tabs, MENTION_TABS)] = at
                    num_tabs += 1
                elif byte >= 128 or byte == _RETURN or byte == 0:
                    plain = False
                at += 1
            end = at
            at += at < size  # the newline
            line += 1
            if of_block == 0:
                while begin + digits < end and _ZERO <= data[begin + digits] <= _NINE:
                    digits += 1
                mark = begin + digits
                titled = mark + 2 < end and data[mark] == _BAR and data[mark + 1] == _LETTER_T
                if titled and data[mark + 2] == _BAR:
                    number = _number(data, begin, mark)
                    title, title_end = mark + 3, end
                plain = plain and number != _NO_NUMBER and num_tabs == 0
            elif of_block == 1:
                abstract, abstract_end = begin + digits + 3, end
                headed = plain and num_tabs == 0 and abstract <= end
                headed = headed and _same(data, block[0], begin, digits + 1)
                headed = headed and data[abstract - 2] == _LETTER_A
                plain = headed and data[abstract - 1] == _BAR
            elif plain:
                plain = num_tabs > 0 and tabs[0] == begin + digits
                plain = plain and _same(data, block[0], begin, digits)
                letter = data[min(begin + digits + 1, end - 1)] | 32  # in lower case
                if _LETTER_A <= letter <= _LETTER_Z:
                    plain = plain and LEAST_RELATION_TABS <= num_tabs <= MOST_RELATION_TABS
                elif plain and num_tabs == MENTION_TABS:
                    start = _number(data, tabs[0] + 1, tabs[1])
                    last = _number(data, tabs[1] + 1, tabs[2])
                    title_size = title_end - title
                    there = title + start
                    if last > title_size:
                        there = abstract + start - title_size - 1
                    length = last - start
                    plain = 0 <= start < last and length == tabs[3] - tabs[2] - 1
                    plain = plain and (last <= title_size or start > title_size)
                    plain = plain and there + length <= abstract_end
                    plain = plain and _same(data, tabs[2] + 1, there, length)
                    row = lines[num_found]
                    row[0], row[1], row[2] = num_blocks, start, last
                    row[3], row[4], row[5], row[6] = tabs[2] + 1, tabs[3], tabs[3] + 1, end
                    num_found += 1
                else:
                    plain = False
            of_block += 1
        plain = plain and of_block >= 2
        # Blocks of one id may be pieces of one article, which are put together elsewhere.
        if num_blocks and number != _NO_NUMBER and blocks[num_blocks - 1, 2] >> 1 == number:
            plain = False
            blocks[num_blocks - 1, 2] &= ~1
            first_found = first_of_last
        if not plain or not _sort(lines, first_found, num_found):
            plain, num_found = False, first_found
        block[2] = 2 * number + plain
        block[3], block[4], block[5] = digits, title, title_end
        block[6], block[7] = abstract, abstract_end
        first_of_last = first_found
        num_blocks += 1
    blocks = blocks[:num_blocks]
    blocks[:, 2] &= 1
    return blocks, lines[:num_found]
