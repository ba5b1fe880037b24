"""Parse a text in which the mentions to hide are marked.

`[[BRCA1|Gene]]` is a mention with its type, `[[BRCA1]]` one whose type is predicted too. The name
only sets the number of hidden word pieces: `[[?|Gene]]` hides one piece.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from embre.entity_types import ENTITY_TYPES, entity_type_of
from embre.refused import Refused
from embre.wording import nearest

MARKED = re.compile(r"\[\[(.*?)\]\](?!\])", re.DOTALL)
SYNTAX = "mark what is hidden as [[BRCA1|Gene]], [[BRCA1]] or, for one word piece, [[?|Gene]]"


class Hidden(NamedTuple):
    """A mention marked to be hidden; `type` is None if the text does not give it."""

    surface: str
    type: str | None


@dataclass(frozen=True, slots=True)
class MarkedText:
    """A parsed text: n hidden mentions and the n + 1 texts around them."""

    texts: tuple[str, ...]
    hidden: tuple[Hidden, ...]

    @property
    def segments(self) -> list[str]:
        """Texts and surfaces of hidden mentions alternating, in order."""
        surfaces = [*(hidden.surface for hidden in self.hidden), ""]
        turns = zip(self.texts, surfaces, strict=True)
        return [segment for turn in turns for segment in turn][:-1]


def parse(text: str) -> MarkedText:
    """Parse the marks of a text. Raises Refused if it has none or a malformed one, or if the text
    was not UTF-8.

    >>> parse("Mutations in [[BRCA1|Gene]] and [[?]].").hidden
    (Hidden(surface='BRCA1', type='Gene'), Hidden(surface='?', type=None))
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:  # Python's stand-ins for bytes of a command line
        raise Refused("the text is not UTF-8; convert it first") from error
    parts = MARKED.split(text)
    texts = tuple(parts[::2])
    if any(mark in part for part in texts for mark in ("[[", "]]")):
        raise Refused(f"a mark in the text is not closed or not opened; {SYNTAX}")
    if len(parts) == 1:
        raise Refused(f"the text hides no mention; {SYNTAX}")
    return MarkedText(texts, tuple(_read_mark(mark) for mark in parts[1::2]))


def _read_mark(mark: str) -> Hidden:
    surface, bar, kind = mark.rpartition("|") if "|" in mark else (mark, "", "")
    if not surface.strip():
        raise Refused(f"[[{mark}]] hides nothing; {SYNTAX}")
    if not bar:
        return Hidden(surface.strip(), None)
    row = entity_type_of(kind)
    if row is None:
        hint = nearest(kind.strip().capitalize(), ENTITY_TYPES)
        raise Refused(f"[[{mark}]]: {kind.strip()!r} is not an entity type; {hint}")
    return Hidden(surface.strip(), row.name)
