"""Word pieces of very many texts: the Hugging Face tokenizer, asked once for each word.

    texts ─join─▶ bytes ─▶ words ─▶ rows of a table, cut where they are new ─▶ Pieces

BERT's pre-tokenizer separates at white space and punctuation before anything else, so the pieces of
a word do not depend on its neighbours. Only ASCII is cut here: a run that holds any other character
goes to Hugging Face as it is, and may come back as several words.
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

# Some 100 MB. A full cache is emptied; most words come back at once.
MAX_WORDS, MAX_LETTERS = 1 << 20, 1 << 26


def _classes() -> np.ndarray:
    """What each byte is. Control characters are removed by BERT and so belong to their word."""
    classes = np.full(256, WORD, dtype=np.uint8)
    classes[[ord(c) for c in " \t\n\r"]] = SPACE
    classes[[code for code in range(33, 127) if not chr(code).isalnum()]] = PUNCTUATION
    return classes


def _folded(lower: bool) -> np.ndarray:
    """What each byte is to a tokenizer: letters small where it says so."""
    folded = np.arange(256, dtype=np.uint8)
    if lower:
        folded[ord("A") : ord("Z") + 1] += 32
    return folded


CLASSES = _classes()


class _PiecesKnown(NamedTuple):
    """The pieces that can begin a word, and those that can go on with one; as `cut_words` has
    them."""

    beginnings: WordTable
    begin_ids: np.ndarray
    continuations: WordTable
    continue_ids: np.ndarray
    longest_piece: int
    longest_word: int

    @classmethod
    def of(cls, model: dict, seed: np.ndarray) -> "_PiecesKnown":
        prefix = model["continuing_subword_prefix"]
        pieces = [(piece, number) for piece, number in model["vocab"].items() if piece.isascii()]
        further = [(p.removeprefix(prefix), n) for p, n in pieces if p.startswith(prefix)]
        longest = max(len(piece) for piece, _ in pieces), model["max_input_chars_per_word"]
        return cls(*_as_table(pieces, seed), *_as_table(further, seed), *longest)


def _as_table(pieces: list[tuple[str, int]], seed: np.ndarray) -> tuple[WordTable, np.ndarray]:
    words = [piece.encode() for piece, _ in pieces]
    return table_of(words, seed), np.array([number for _, number in pieces], dtype=np.int32)


class CachedTokenizer:
    """A tokenizer with a memory for words. Its tokens and offsets are Hugging Face's own."""

    def __init__(self, tokenizer: TextTokenizer):
        self._tokenizer = tokenizer
        self.vocabulary = tokenizer.vocabulary
        parts = json.loads(tokenizer.backend.to_str())
        added = parts["added_tokens"]
        if tokenizer.backend.encode_special_tokens:
            added = [token for token in added if not token["special"]]
        # What Hugging Face finds in a text before it looks for words.
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
            self._pieces_known = _PiecesKnown.of(parts["model"], self._seed)
            self._folded = _folded(lower=bool(parts["normalizer"]["lowercase"]))
            self._forget()

    def encode(self, texts: Sequence[str], begins: np.ndarray | None = None) -> Pieces:
        """What `TextTokenizer.encode` gives, sooner."""
        joined = "\n".join(texts)
        if not self._by_word or (self._added and self._added.search(joined)):
            return self._tokenizer.encode(texts, begins)
        data = np.frombuffer(joined.encode(), dtype=np.uint8)
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        text_starts = np.cumsum(lengths + 1) - (lengths + 1)
        num_rows = int(self._table.rows[0])
        if num_rows > MAX_WORDS or self._table.starts[num_rows] > MAX_LETTERS:
            self._forget()
        num_known = int(self._table.rows[0])
        words = scan_words(data, self._folded, CLASSES, text_starts, self._seed)
        rows = look_up(self._table, words)
        self._table = add_missing(self._table, words, rows)
        if self._table.rows[0] > num_known:
            self._learn(num_known)
        # A character counted in all texts, as one counted in its own.
        shifts = -text_starts if begins is None else begins - text_starts
        return Pieces(*lay_pieces(rows, words.chars, shifts, words.first, *self._pieces))

    def _learn(self, first_row: int) -> None:
        """Cut the words from a row of the table on, and keep their pieces."""
        counts, *cut = cut_words(self._table, first_row, *self._pieces_known)
        others = np.flatnonzero(counts == NOT_CUT)
        whole = self._tokenizer.encode(words_of(self._table, others + first_row))
        first = np.cumsum(np.maximum(counts, 0)) - np.maximum(counts, 0)
        counts[others], first[others] = np.diff(whole.first), len(cut[0]) + whole.first[:-1]
        pieces = [
            np.concatenate(columns, dtype=np.int32)
            for columns in zip(cut, (whole.ids, whole.starts, whole.ends), strict=True)
        ]
        first += len(self._pieces[2])
        self._pieces = tuple(map(np.append, self._pieces, (first, counts, *pieces)))

    def _forget(self) -> None:
        none = np.zeros(0, dtype=np.int32)
        self._table = empty_table(self._seed)
        self._pieces = (none.astype(np.int64), none, none, none, none)
