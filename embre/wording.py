"""Words for people: the nearest of those that are known, text that a terminal does not obey, URLs
without their secrets."""

import difflib
import re
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """What to say of a word that is none of those.

    >>> nearest("Chemcal", ["Gene", "Chemical"])
    'did you mean Chemical?'
    >>> nearest("?", ["Gene", "Chemical"])
    'known: Gene, Chemical'
    """
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def printable(text: str) -> str:
    r"""Text out of the data, for a terminal: what it would obey or hide is written out.

    >>> printable("BRAF\x1b[31m")
    'BRAF\\x1b[31m'
    """
    return "".join(
        sign
        if sign.isprintable()
        else (" " if sign.isspace() else sign.encode("unicode_escape").decode())
        for sign in text
    )


def without_secrets(text: str) -> str:
    """A text whose URLs have lost their users, passwords and queries.

    >>> without_secrets("https://me:5eCr3t@host/a.gz?signature=5eCr3t")
    'https://host/a.gz'
    """
    return re.sub(r"(://[^\s?]*)\?\S*", r"\1", re.sub(r"(?<=://)\S*@", "", text))
