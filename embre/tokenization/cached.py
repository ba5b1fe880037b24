"""Tokenize very many texts: a Hugging Face tokenizer with a cache of the pieces of words.

    texts ─join─▶ bytes ─scan_words─▶ words ─look_up─▶ rows of a table ─lay_pieces─▶ Pieces

BERT's pre-tokenizer splits at white space and punctuation before anything else, so the pieces of a
word do not depend on its neighbours. A "word" here is a run of bytes between ASCII white space and
punctuation; one with other than ASCII letters and digits is tokenized by Hugging Face, which may
split it further.
"""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from embre.tokenization.tokenizer import Pieces, TextTokenizer
from embre.tokenization.word_table import (
    NOT_CUT,
    WordTable,
    add_missing,
    cut_words,
    empty_table,
    look_up,
    random_seed,
    table_of,
    words_of,
)
from embre.tokenization.words import PUNCTUATION, SPACE, WORD, lay_pieces, scan_words

# About 100 MB. A full cache is emptied; frequent words return at once.
MAX_WORDS, MAX_LETTERS = 1 << 20, 1 << 26


def _classes() -> np.ndarray:
    """The class of each byte. BERT removes control characters, so they do not separate words."""
    classes = np.full(256, WORD, dtype=np.uint8)
    classes[[ord(c) for c in " \t\n\r"]] = SPACE
    classes[[code for code in range(33, 127) if not chr(code).isalnum()]] = PUNCTUATION
    return classes


def _folded(lower: bool) -> np.ndarray:
    """The byte to use for each byte: ASCII letters in lower case if `lower`."""
    folded = np.arange(256, dtype=np.uint8)
    if lower:
        folded[ord("A") : ord("Z") + 1] += 32
    return folded


CLASSES = _classes()


class _Vocabulary(NamedTuple):
    """The ASCII pieces that begin a word and those that continue one: arguments of `cut_words`."""

    beginnings: WordTable
    begin_ids: np.ndarray
    continuations: WordTable
    continue_ids: np.ndarray
    longest_piece: int
    longest_word: int

    @classmethod
    def of(cls, model: dict, seed: np.ndarray) -> "_Vocabulary":
        """The vocabulary of a WordPiece model, as in tokenizer.json."""
        prefix = model["continuing_subword_prefix"]
        pieces = [(piece, number) for piece, number in model["vocab"].items() if piece.isascii()]
        continuing = [(p.removeprefix(prefix), n) for p, n in pieces if p.startswith(prefix)]
        limits = max(len(piece) for piece, _ in pieces), model["max_input_chars_per_word"]
        return cls(*_as_table(pieces, seed), *_as_table(continuing, seed), *limits)


def _as_table(pieces: list[tuple[str, int]], seed: np.ndarray) -> tuple[WordTable, np.ndarray]:
    words = [piece.encode() for piece, _ in pieces]
    return table_of(words, seed), np.array([number for _, number in pieces], dtype=np.int32)


class CachedTokenizer:
    """A tokenizer that caches the pieces of words; tokens and offsets equal Hugging Face's."""

    def __init__(self, tokenizer: TextTokenizer):
        self._tokenizer = tokenizer
        self.vocabulary = tokenizer.vocabulary
        parts = json.loads(tokenizer.backend.to_str())
        added = parts["added_tokens"]
        if tokenizer.backend.encode_special_tokens:
            added = [token for token in added if not token["special"]]
        # Added tokens, which Hugging Face finds in a text before it splits words.
        contents = "|".join(re.escape(token["content"]) for token in added)
        self._added = re.compile(contents) if contents else None
        self._by_word = (
            (parts["normalizer"] or {}).get("type") == "BertNormalizer"
            and (parts["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
            and parts["model"]["type"] == "WordPiece"
            and not any(token["normalized"] or token["single_word"] for token in added)
        )
        if self._by_word:
            self._seed = random_seed()
            self._vocabulary = _Vocabulary.of(parts["model"], self._seed)
            self._folded = _folded(lower=bool(parts["normalizer"]["lowercase"]))
            self._clear()

    def encode(self, texts: Sequence[str], begins: np.ndarray | None = None) -> Pieces:
        """`TextTokenizer.encode`, faster."""
        joined = "\n".join(texts)
        if not self._by_word or (self._added and self._added.search(joined)):
            return self._tokenizer.encode(texts, begins)
        data = np.frombuffer(joined.encode(), dtype=np.uint8)
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        text_starts = np.cumsum(lengths + 1) - (lengths + 1)
        num_rows = int(self._table.rows[0])
        if num_rows > MAX_WORDS or self._table.starts[num_rows] > MAX_LETTERS:
            self._clear()
        num_known = int(self._table.rows[0])
        words = scan_words(data, self._folded, CLASSES, text_starts, self._seed)
        rows = look_up(self._table, words)
        self._table = add_missing(self._table, words, rows)
        if self._table.rows[0] > num_known:
            self._tokenize_words(num_known)
        # From characters of the joined texts to characters of each text.
        shifts = -text_starts if begins is None else begins - text_starts
        return Pieces(*lay_pieces(rows, words.chars, shifts, words.first, *self._pieces))

    def _tokenize_words(self, first_row: int) -> None:
        """Cache the pieces of the words of the table from row `first_row` on."""
        counts, *plain = cut_words(self._table, first_row, *self._vocabulary)
        rows = np.flatnonzero(counts == NOT_CUT)
        others = self._tokenizer.encode(words_of(self._table, rows + first_row))
        first = np.cumsum(np.maximum(counts, 0)) - np.maximum(counts, 0)
        counts[rows], first[rows] = np.diff(others.first), len(plain[0]) + others.first[:-1]
        pieces = [
            np.concatenate(columns, dtype=np.int32)
            for columns in zip(plain, (others.ids, others.starts, others.ends), strict=True)
        ]
        first += len(self._pieces[2])
        self._pieces = tuple(map(np.append, self._pieces, (first, counts, *pieces)))

    def _clear(self) -> None:
        empty = np.zeros(0, dtype=np.int32)
        self._table = empty_table(self._seed)
        # By row of the table: first piece and number of pieces. By piece: id, start and end.
        self._pieces = (empty.astype(np.int64), empty, empty, empty, empty)
