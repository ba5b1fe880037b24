"""Text for messages: did-you-mean hints, escaping for terminals, URLs without secrets."""

import difflib
import re
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown word: the nearest known one, or all of them.

    >>> nearest("Chemcal", ["Gene", "Chemical"])
    'did you mean Chemical?'
    >>> nearest("?", ["Gene", "Chemical"])
    'known: Gene, Chemical'
    """
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def printable(text: str) -> str:
    r"""Escape control and invisible characters, which a terminal would obey or hide.

    >>> printable("BRAF\x1b[31m")
    'BRAF\\x1b[31m'
    """
    return "".join(
        char
        if char.isprintable()
        else (" " if char.isspace() else char.encode("unicode_escape").decode())
        for char in text
    )


def without_secrets(text: str) -> str:
    """Remove users, passwords and queries from the URLs in a text.

    >>> without_secrets("https://me:5eCr3t@host/a.gz?signature=5eCr3t")
    'https://host/a.gz'
    """
    return re.sub(r"(://[^\s?]*)\?\S*", r"\1", re.sub(r"(?<=://)\S*@", "", text))
