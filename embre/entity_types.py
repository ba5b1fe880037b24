"""The one table of entity types: canonical name, spellings in dumps, identifier dialects."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from embre.document import Concept, Document

NOT_NORMALISED = {"", "-", "-1", "none", "null", "nan"}


@dataclass(frozen=True, slots=True)
class EntityType:
    """One row: how a type is called here and elsewhere, and how its identifiers are read.

    `official` is BioRED's name, which the official scorer compares. `split` cuts a list of
    identifiers; `canonical` turns one identifier into ours, or into '' where it means none.
    """

    name: str
    official: str
    spellings: frozenset[str]
    split: Callable[[str], list[str]]
    canonical: Callable[[str], str]
