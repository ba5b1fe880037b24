"""A WordPiece tokenizer for made-up words, for benchmarks without a backbone."""

import string
from pathlib import Path

from made_up_dump import FOREIGN
from made_up_words import CODAS, ENDINGS, ONSETS, ROOTS, VOWELS, ranked_words

from embre.tokenization.learnt import SPECIALS, save_pieces

NUM_PIECES = 30_000


def save_made_up_tokenizer(folder: Path) -> None:
    """Save a tokenizer with the frequent words, and parts for others, as a Hugging Face folder.

    All but two of the non-ASCII characters are unknown to it, as may be the case for a real one.
    """
    letters = [*string.printable.strip().lower(), *(foreign for _, foreign in FOREIGN[:2])]
    syllables = [onset + vowel for onset in ONSETS for vowel in VOWELS]
    parts = [*letters, *ENDINGS, *CODAS, *syllables, *(f"{n:02}" for n in range(100))]
    pieces = [*SPECIALS.values(), *parts, *(f"##{part}" for part in parts), *ROOTS]
    save_pieces(folder, list(dict.fromkeys([*pieces, *ranked_words()]))[:NUM_PIECES])
