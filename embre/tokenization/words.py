"""Split texts into words, and concatenate the pieces of words: compiled loops of `CachedTokenizer`.

bytes ─scan_words─▶ Words ─word_table─▶ their rows in a table ─lay_pieces─▶ tokens
"""

from typing import NamedTuple

import numpy as np
from numba import njit

WORD, SPACE, PUNCTUATION = 0, 1, 2  # classes of bytes


class Words(NamedTuple):
    """The words of texts.

    (num_words,) hash `keys`, spans `begins` to `ends` in `letters`, and first characters `chars`.
    `first` (num_texts + 1,) is the index of the first word of each text.
    """

    keys: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    chars: np.ndarray
    first: np.ndarray
    letters: np.ndarray


@njit(cache=True)
def scan_words(
    data: np.ndarray,
    folded: np.ndarray,
    classes: np.ndarray,
    text_starts: np.ndarray,
    seed: np.ndarray,
) -> Words:
    """Split texts into words and punctuation. `data` is their UTF-8, separated by one space.

    `folded` and `classes` (256,) are the replacement and the class of each byte; `text_starts`
    (num_texts,) the character at which each text begins.
    """
    size = len(data)
    keys, letters = np.empty(size, dtype=np.uint64), np.empty(size, dtype=np.uint8)
    begins, ends = np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32)
    chars = np.empty(size, dtype=np.int32)
    first = np.empty(len(text_starts) + 1, dtype=np.int64)
    empty, multiplier = seed[0], seed[1]
    text, word, char, at = 0, 0, 0, 0
    while at < size:
        kind = classes[data[at]]
        if kind == SPACE:
            at += 1
            char += 1
            continue
        while text < len(text_starts) and text_starts[text] <= char:
            first[text] = word
            text += 1
        begins[word], chars[word] = at, char
        key = empty
        while True:
            letter = folded[data[at]]
            letters[at] = letter
            char += (letter & 0xC0) != 0x80
            key = (key ^ np.uint64(letter)) * multiplier
            at += 1
            if kind == PUNCTUATION or at == size or classes[data[at]] != WORD:
                break
        ends[word], keys[word] = at, key
        word += 1
    first[text:] = word
    return Words(keys[:word], begins[:word], ends[:word], chars[:word], first, letters)


@njit(cache=True)
def lay_pieces(
    rows: np.ndarray,
    chars: np.ndarray,
    shifts: np.ndarray,
    first_word: np.ndarray,
    first: np.ndarray,
    counts: np.ndarray,
    ids: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Concatenate the pieces of the words of texts.

    `rows` and `chars` (num_words,) are the row and the first character of each word, `first_word`
    (num_texts + 1,) the first word of each text; `shifts` (num_texts,) is added to the characters
    of each text. A row has `counts[row]` pieces, from `first[row]` on in `ids`, `starts`, `ends`.
    Returns id, start and end (num_tokens,), and the first token of each text (num_texts + 1,).
    """
    num_tokens = 0
    for row in rows:
        num_tokens += counts[row]
    all_ids = np.empty(num_tokens, dtype=np.int32)
    all_starts = np.empty(num_tokens, dtype=np.int64)
    all_ends = np.empty(num_tokens, dtype=np.int64)
    first_token = np.empty(len(first_word), dtype=np.int64)
    token = 0
    for text in range(len(first_word) - 1):
        first_token[text] = token
        for word in range(first_word[text], first_word[text + 1]):
            row, char = rows[word], chars[word] + shifts[text]
            for piece in range(first[row], first[row] + counts[row]):
                all_ids[token] = ids[piece]
                all_starts[token], all_ends[token] = char + starts[piece], char + ends[piece]
                token += 1
    first_token[-1] = token
    return all_ids, all_starts, all_ends, first_token
