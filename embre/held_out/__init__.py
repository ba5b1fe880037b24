"""Documents that must stay out of pretraining, matched by id and by text.

Text is matched because an article may have other ids (a PMC number, a row number in a file).
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from embre.corpora import read_checked
from embre.corpora.raw import CheckedDocument
from embre.refused import Refused
from embre.tally import Tally

# Shorter texts are not distinctive: many articles are called "Editorial" or "In reply".
MIN_LETTERS = 32
_SMALL = bytes(range(256)).lower()
_NOT_LETTERS = bytes(c for c in range(256) if not (chr(c).isascii() and chr(c).isalnum()))

# A PMID or PMC number as people write them: "PMID: 1005", "pmc12", "PMCID:PMC12", "PMC-12".
_BETWEEN = r"[\s:=#_-]*"
_NUMBER = rf"(?:PM(C?)ID{_BETWEEN}|PubMed{_BETWEEN})?(?:(PMC){_BETWEEN})?([0-9]+)"
_ARTICLE = re.compile(_NUMBER, re.IGNORECASE)
# Several ids on a line, a link, an unknown label, a remark after an id, quotes, a decimal number
# from a spreadsheet, or a malformed article number.
_NOT_AN_ID = re.compile(
    rf"[,;\0]|://|:\s|^{_NUMBER}\s|^[\"']|^\d+\.\d*$|^(?:PMC|PMC?ID|PubMed)(?![A-Za-z])",
    re.IGNORECASE,
)
_LABELS = ("", "PMID", "PMCID", "PMC", "PUBMED")  # not ids by themselves
HELD_LIST_HEAD = "# id, fingerprint of text, fingerprint of title; 0 where too short"
# Evaluation documents whose ids and texts are public: the lists beside this file. Held out by
# default.
SHIPPED = ("biored", "bc5cdr")


class Fingerprint(NamedTuple):
    """64-bit hashes of a document's text and title; 0 if they have too few letters."""

    text: int
    title: int


def fingerprint(doc: CheckedDocument) -> Fingerprint:
    """Hash text and title by ASCII letters and digits, ignoring spacing, case and punctuation."""
    for passage in doc.passages:
        if passage.kind == "title":
            title = _letters_hash(doc.text[passage.start : passage.end])
            return Fingerprint(_letters_hash(doc.text), title)
    return Fingerprint(_letters_hash(doc.text), 0)


def _letters_hash(text: str) -> int:
    letters = text.encode(errors="surrogatepass").translate(_SMALL, _NOT_LETTERS)
    if len(letters) < MIN_LETTERS:
        return 0
    return int.from_bytes(hashlib.blake2b(letters, digest_size=8).digest(), "little") or 1


@dataclass(frozen=True, slots=True)
class HoldOutList:
    """A list of documents to leave out; `prints` are the known hashes of texts and titles."""

    name: str
    ids: set[str] = field(default_factory=set)
    prints: set[int] = field(default_factory=set)

    @property
    def digest(self) -> str:
        """SHA-256 over ids and fingerprints."""
        lines = [*sorted(self.ids), *(f"{value:x}" for value in sorted(self.prints))]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def has(self, doc: CheckedDocument, prints: Fingerprint) -> bool:
        known = not self.ids.isdisjoint(document_ids(doc))
        return known or prints.text in self.prints or prints.title in self.prints

    def add(self, prints: Iterable[int]) -> None:
        self.prints.update(value for value in prints if value)


def document_ids(doc: CheckedDocument) -> set[str]:
    """Return all ids under which a list may contain the document."""
    return {name for name in (doc.doc_id, doc.pmid, doc.pmcid) if name}


def read_hold_out_list(source: str) -> HoldOutList:
    """Read a shipped list (`SHIPPED`), a file of ids (one per line), or any corpus.

    Raises Refused for a list or corpus that cannot be read completely.
    """
    if source in SHIPPED:
        return _read_list(source, files("embre.held_out").joinpath(f"{source}.tsv").read_text())
    path = Path(source)
    if path.is_file() and path.suffix in (".txt", ".ids", ".pmids", ".tsv"):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise Refused(f"{source}: not UTF-8 ({error}); save the list as UTF-8") from error
        if "|" not in text and all(line.count("\t") <= 2 for line in text.splitlines()):
            return _read_list(path.name, text)
    held = HoldOutList(path.name)
    for doc in _read_all(source):
        held.ids.update(document_ids(doc))
        held.add(fingerprint(doc))
    return held


def read_lists(sources: Sequence[str]) -> list[HoldOutList]:
    """Read several lists; Refused if two have the same name, by which documents are counted."""
    held = [read_hold_out_list(source) for source in sources]
    first: dict[str, str] = {}
    for one, source in zip(held, sources, strict=True):
        if one.name in first:
            raise Refused(
                f"{first[one.name]} and {source}: two hold-out lists of the same name, so their "
                "counts would be mixed; rename one, or leave it out if they are the same"
            )
        first[one.name] = source
    return held


def _read_all(source: str) -> Iterator[CheckedDocument]:
    """Yield every document of a corpus; Refused at the end if any could not be read.

    A list that is shorter than it should be lets evaluation documents through.
    """
    tally, num_read = Tally(), 0
    for doc in read_checked(source, tally):
        num_read += 1
        yield doc
    lost = [
        reason for reason in tally.counts if reason.startswith(("file/", "member/", "document/"))
    ]
    if lost or not num_read:
        why = ", ".join(lost) or "it is empty"
        raise Refused(
            f"{source}: not all of this hold-out corpus can be read ({why}); repair it, or give "
            "undamaged files"
        )


def _read_list(name: str, text: str) -> HoldOutList:
    """Parse lines of an id, or of an id and the hexadecimal hashes of its text and title.

    Raises Refused for an empty list and for any other line: a list that is not
    understood lets evaluation documents through.
    """
    held = HoldOutList(name)
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            doc_id, *prints = line.split("\t")
            doc_id, article = doc_id.strip(), _article(doc_id.strip())
            bad = doc_id.upper() in _LABELS or (not prints and _NOT_AN_ID.search(doc_id))
            try:
                if bad and not article:
                    raise Refused(doc_id)
                held.add(int(value, 16) for value in prints)
            except ValueError as error:
                raise Refused(
                    f"{name}: {line!r} is not a line of a hold-out list; give an id per line, or "
                    "the output of tools/hold_out_list.py"
                ) from error
            held.ids.add(article or doc_id)
    if not held.ids:
        raise Refused(f"{name}: no id in this hold-out list; give one per line, or leave it out")
    return held


def _article(doc_id: str) -> str | None:
    """Normalize a PMID or PMC number; None for any other id."""
    if not (found := _ARTICLE.fullmatch(doc_id)):
        return None
    is_pmcid, is_pmc, number = found.groups()
    return f"PMC{number}" if is_pmcid or is_pmc else number


def hold_out_lines(corpora: Iterable[str], only: set[str] | None) -> Iterator[str]:
    """Yield the lines of a hold-out list of the documents of corpora, all or those in `only`.

    An id of `only` that no corpus has gets a line of its own, without fingerprints. Raises
    Refused for a corpus that cannot be read to its end.
    """
    missing = set(only or ())
    lines: set[str] = set()
    for doc in (doc for source in corpora for doc in _read_all(source)):
        names = document_ids(doc)
        if only is None or names & only:
            prints = fingerprint(doc)
            missing -= names
            lines |= {f"{name}\t{prints.text:x}\t{prints.title:x}" for name in names}
    yield from lines
    yield from missing
