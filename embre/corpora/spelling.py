"""Whether two strings are the same words in two spellings, as PubTator makes them.

Its text is often written without Greek and other letters, while the mention keeps them.
"""

import unicodedata

_GREEK = "αβγδεζηθικλμνξοπρστυφχψω"
_NAMES = {
    ord(letter): unicodedata.name(letter).rpartition(" ")[2].lower().replace("lamda", "lambda")
    for letter in _GREEK
} | {ord("ς"): "sigma"}


def same_words(there: str, claimed: str) -> bool:
    """Whether a text may say what a mention claims; then the offset is right.

    >>> same_words("a-ketoglutarate", "α‑ketoglutarate"), same_words("alpha-actin", "α-actin")
    (True, True)
    >>> same_words("BRAF", "CRAF")
    False
    """
    if len(there) == len(claimed) and _letter_by_letter(there, claimed):
        return True
    return spelled_out(there) == spelled_out(claimed)


def _letter_by_letter(there: str, claimed: str) -> bool:
    """One letter for another alphabet's, one sign for another; but most must be the same."""
    num_same = 0
    for one, other in zip(there, claimed, strict=True):
        if one == other or one.lower() == other.lower():
            num_same += 1
        elif one.isascii() and other.isascii() and (one.isalnum() or other.isalnum()):
            return False
    return 2 * num_same >= len(there)


def spelled_out(words: str) -> str:
    """Lower case, Greek letters by name, ß as ss, quotes that a database doubled single again.

    >>> spelled_out("TGF-β"), spelled_out("Sjogren''s")
    ('tgf-beta', "sjogren's")
    """
    return words.casefold().translate(_NAMES).replace("''", "'")
