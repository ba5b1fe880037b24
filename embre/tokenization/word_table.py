"""A hash table of words: compiled loops of `CachedTokenizer`.

    Words ─look_up, add_missing─▶ their rows in a table
    new rows ─cut_words─▶ their pieces

A table has each word once, in a row numbered in order of insertion, which never moves. Words are
hashed with FNV-1a, whose offset and multiplier are random for each tokenizer, so that no input file
can be crafted to have many collisions. Results do not depend on the hash.

Functions that call each other are in this one file: Numba caches compiled code until the file of a
function changes, and does not notice changes of functions called in other files.
"""

import secrets
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from embre.tokenization.words import Words

NOT_CUT = -1  # instead of the number of pieces

_ROWS, _LETTERS = 1 << 10, 1 << 13  # initial capacity of a table


class WordTable(NamedTuple):
    """An open-addressing hash table of distinct words.

    Word `row` is `letters[starts[row] : starts[row + 1]]`; `rows[0]` is the number of rows.
    `slots` (a power of two) has a row or -1. All arrays may be longer than their used part. Words
    to look up must be hashed with the same `seed`.
    """

    slots: np.ndarray  # int32
    hashes: np.ndarray  # uint64
    starts: np.ndarray  # int64
    letters: np.ndarray  # uint8
    rows: np.ndarray  # (1,) int64
    seed: np.ndarray  # (2,) uint64, offset and multiplier of the hash


def random_seed() -> np.ndarray:
    """A random seed for tables and the words looked up in them; the multiplier is odd."""
    return np.array([secrets.randbits(64), secrets.randbits(64) | 1], dtype=np.uint64)


def empty_table(seed: np.ndarray) -> WordTable:
    return WordTable(
        slots=np.full(2 * _ROWS, -1, dtype=np.int32),
        hashes=np.zeros(_ROWS, dtype=np.uint64),
        starts=np.zeros(_ROWS + 1, dtype=np.int64),
        letters=np.zeros(_LETTERS, dtype=np.uint8),
        rows=np.zeros(1, dtype=np.int64),
        seed=seed,
    )


def table_of(words: Sequence[bytes], seed: np.ndarray) -> WordTable:
    """A table of distinct words, in their order."""
    ends = np.cumsum([len(word) for word in words], dtype=np.int64)
    letters = np.frombuffer(bytearray(b"".join(words)), dtype=np.uint8)
    return _add_all(empty_table(seed), letters, ends)


def words_of(table: WordTable, rows: np.ndarray) -> list[str]:
    """The words of `rows`."""
    spans = zip(table.starts[rows].tolist(), table.starts[rows + 1].tolist(), strict=True)
    return [table.letters[start:end].tobytes().decode() for start, end in spans]


@njit(cache=True)
def _slot_of(
    slots: np.ndarray,
    hashes: np.ndarray,
    starts: np.ndarray,
    letters: np.ndarray,
    key: np.uint64,
    word: np.ndarray,
    begin: int,
    end: int,
) -> np.uint64:
    """The slot of the word `word[begin:end]` with hash `key`, or the empty slot for it.

    Takes the arrays of a table separately: passing a tuple of arrays costs more than the search.
    """
    last = np.uint64(len(slots) - 1)
    slot = (key ^ (key >> np.uint64(32))) & last
    while True:
        row = slots[slot]
        if row < 0:
            return slot
        if hashes[row] == key:
            at = starts[row]
            same = starts[row + 1] - at == end - begin
            for step in range(end - begin):
                if not same or letters[at + step] != word[begin + step]:
                    same = False
                    break
            if same:
                return slot
        slot = (slot + np.uint64(1)) & last


@njit(cache=True)
def _grown(table: WordTable, num_letters: int) -> WordTable:
    """The table with capacity for one more word of `num_letters` bytes."""
    row = table.rows[0]
    slots, hashes, starts, letters = table.slots, table.hashes, table.starts, table.letters
    if row + 1 >= len(hashes):
        hashes = np.zeros(2 * len(hashes), dtype=np.uint64)
        hashes[:row] = table.hashes[:row]
        starts = np.zeros(len(hashes) + 1, dtype=np.int64)
        starts[: row + 1] = table.starts[: row + 1]
        slots = np.full(2 * len(hashes), -1, dtype=np.int32)
        last = np.uint64(len(slots) - 1)
        for moved in range(row):
            key = hashes[moved]
            slot = (key ^ (key >> np.uint64(32))) & last
            while slots[slot] >= 0:
                slot = (slot + np.uint64(1)) & last
            slots[slot] = moved
    used = starts[row]
    if used + num_letters > len(letters):
        letters = np.zeros(2 * (used + num_letters), dtype=np.uint8)
        letters[:used] = table.letters[:used]
    return WordTable(slots, hashes, starts, letters, table.rows, table.seed)


@njit(cache=True)
def _add(table: WordTable, key: np.uint64, word: np.ndarray, begin: int, end: int) -> WordTable:
    """Add a new word in the next row; returns the table, which may have been reallocated."""
    row = table.rows[0]
    table = _grown(table, end - begin)
    at = table.starts[row]
    table.letters[at : at + end - begin] = word[begin:end]
    table.starts[row + 1] = at + end - begin
    table.hashes[row] = key
    slots, hashes, starts, letters, rows, _ = table
    slots[_slot_of(slots, hashes, starts, letters, key, word, begin, end)] = row
    rows[0] = row + 1
    return table


@njit(cache=True)
def _add_all(table: WordTable, letters: np.ndarray, ends: np.ndarray) -> WordTable:
    start = 0
    for end in ends:
        key, multiplier = table.seed[0], table.seed[1]
        for at in range(start, end):
            key = (key ^ np.uint64(letters[at])) * multiplier
        table = _add(table, key, letters, start, end)
        start = end
    return table


@njit(cache=True)
def look_up(table: WordTable, words: Words) -> np.ndarray:
    """(num_words,) the row of each word, -1 if it is not in the table."""
    rows = np.empty(len(words.keys), dtype=np.int32)
    slots, hashes, starts, letters, _, _ = table
    keys, begins, ends, _, _, spelt = words
    for word in range(len(rows)):
        rows[word] = slots[
            _slot_of(slots, hashes, starts, letters, keys[word], spelt, begins[word], ends[word])
        ]
    return rows


@njit(cache=True)
def add_missing(table: WordTable, words: Words, rows: np.ndarray) -> WordTable:
    """Add the words whose entry of `rows` is -1, and fill in their rows; returns the table."""
    keys, begins, ends, _, _, spelt = words
    for word in np.flatnonzero(rows < 0):
        slots, hashes, starts, letters, num_rows, _ = table
        span = spelt, begins[word], ends[word]
        row = slots[_slot_of(slots, hashes, starts, letters, keys[word], *span)]
        if row < 0:
            row = num_rows[0]
            table = _add(table, keys[word], *span)
        rows[word] = row
    return table


@njit(cache=True)
def cut_words(
    table: WordTable,
    first_row: int,
    beginnings: WordTable,
    begin_ids: np.ndarray,
    continuations: WordTable,
    continue_ids: np.ndarray,
    longest_piece: int,
    longest_word: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut the words from row `first_row` on into pieces, greedily by longest match (WordPiece).

    Cuts only words of ASCII letters and digits, which no normalizer changes further. Returns the
    number of pieces (num_words,), NOT_CUT for other words and those that pieces cannot spell, and
    the id, start and end (num_pieces,) of all pieces.
    """
    num_words = table.rows[0] - first_row
    counts = np.full(num_words, NOT_CUT, dtype=np.int32)
    num_letters = table.starts[table.rows[0]] - table.starts[first_row]
    ids = np.empty(num_letters, dtype=np.int32)
    starts, ends = np.empty_like(ids), np.empty_like(ids)
    keys = np.empty(longest_piece, dtype=np.uint64)
    letters, num_pieces = table.letters, 0
    empty, multiplier = table.seed[0], table.seed[1]
    for word in range(num_words):
        begin, end = table.starts[first_row + word], table.starts[first_row + word + 1]
        plain = end - begin <= longest_word
        for at in range(begin, end):
            letter = letters[at] | 32
            digit = 48 <= letters[at] <= 57
            plain = plain and (digit or 97 <= letter <= 122) and letters[at] < 128
        at, piece = begin, num_pieces
        while plain and at < end:
            known, which = (beginnings, begin_ids) if at == begin else (continuations, continue_ids)
            key, reach = empty, min(end - at, longest_piece)
            for step in range(reach):
                key = (key ^ np.uint64(letters[at + step])) * multiplier
                keys[step] = key
            slots, hashes, pieces, their_letters, _, _ = known
            row = -1
            while reach > 0 and row < 0:
                key, stop = keys[reach - 1], at + reach
                row = slots[_slot_of(slots, hashes, pieces, their_letters, key, letters, at, stop)]
                reach -= row < 0
            if row < 0:
                plain = False
            else:
                ids[piece], starts[piece], ends[piece] = which[row], at - begin, at - begin + reach
                piece += 1
                at += reach
        if plain:
            counts[word] = piece - num_pieces
            num_pieces = piece
    return counts, ids[:num_pieces], starts[:num_pieces], ends[:num_pieces]
