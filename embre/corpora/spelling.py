"""Compare two spellings of the same words.

PubTator's text often spells out or replaces Greek and other letters that the mention keeps.
"""

import unicodedata

_GREEK = "αβγδεζηθικλμνξοπρστυφχψω"
_NAMES = {
    ord(letter): unicodedata.name(letter).rpartition(" ")[2].lower().replace("lamda", "lambda")
    for letter in _GREEK
} | {ord("ς"): "sigma"}


def same_words(there: str, claimed: str) -> bool:
    """Whether a text may be another spelling of the mention; if so, the offset is right.

    >>> same_words("a-ketoglutarate", "α‑ketoglutarate"), same_words("alpha-actin", "α-actin")
    (True, True)
    >>> same_words("BRAF", "CRAF")
    False
    """
    if len(there) == len(claimed) and _letter_by_letter(there, claimed):
        return True
    return spelled_out(there) == spelled_out(claimed)


def _letter_by_letter(there: str, claimed: str) -> bool:
    """Allow a letter of another alphabet or another sign per position; at least half must match."""
    num_same = 0
    for one, other in zip(there, claimed, strict=True):
        if one == other or one.lower() == other.lower():
            num_same += 1
        elif one.isascii() and other.isascii() and (one.isalnum() or other.isalnum()):
            return False
    return 2 * num_same >= len(there)


def spelled_out(words: str) -> str:
    """Lower-case; spell out Greek letters and ß; undo doubled quotes.

    >>> spelled_out("TGF-β"), spelled_out("Sjogren''s")
    ('tgf-beta', "sjogren's")
    """
    return words.casefold().translate(_NAMES).replace("''", "'")
