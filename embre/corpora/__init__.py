"""Read and write corpora: the tables of file formats and of named corpora.

for doc in read_documents("pubmed.tar.gz", tally): ...
write_pubtator("predicted.PubTator", docs)
"""

import re
from collections.abc import Callable, Iterator
from itertools import compress
from pathlib import Path
from typing import NamedTuple

from embre.atomic_files import atomic_file
from embre.corpora import (
    bc5cdr,
    bioc_json,
    bioc_xml,
    biored,
    pubtator,
)
from embre.corpora.assemble import assemble, check
from embre.corpora.copying import (
    Copy,
    Original,
    copy_bioc_json,
    copy_bioc_xml,
    copy_pubtator,
    edit,
    write_copy,
)
from embre.corpora.pubtator_write import write_pubtator as write_pubtator
from embre.corpora.raw import CheckedDocument, Chunk, RawDocument
from embre.corpora.sources import HEAD_BYTES, Opened, Source, Watch, list_files, locate, open_plain
from embre.corpora.window import Window
from embre.document import Document
from embre.refused import Refused
from embre.relation_schema import RelationSchema
from embre.tally import Tally


class Format(NamedTuple):
    """The signature at the start of a file format, and the functions that process its files.

    `cut` yields chunks of a file, `read` the raw documents of a chunk. `split` yields each document
    of a chunk as its bytes in the file and a chunk of its own. `copy` copies a file with other
    relations.
    """

    sign: re.Pattern[bytes]
    cut: Callable[[Window], Iterator[Chunk]]
    read: Callable[[Chunk, Tally, bool], Iterator[RawDocument]]
    split: Callable[[Chunk], Iterator[tuple[bytes, Chunk]]]
    copy: Copy


_XML_SIGN = rb"\A(?:\xef\xbb\xbf)?\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*)*+<(?:!DOCTYPE\s+)?collection\b"
_JSON_SIGN = rb'\A(?:\xef\xbb\xbf)?\s*[\[{].*?"(?:documents|PubTator3|passages)"\s*:'
_PUBTATOR_SIGN = rb"^(?:\xef\xbb\xbf)?[^|\t\r\n]+\|[ta]\|"

FORMATS: dict[str, Format] = {
    "bioc_xml": Format(
        re.compile(_XML_SIGN, re.DOTALL),
        bioc_xml.cut,
        bioc_xml.read_chunk,
        bioc_xml.split,
        copy_bioc_xml,
    ),
    "bioc_json": Format(
        re.compile(_JSON_SIGN, re.DOTALL),
        bioc_json.cut,
        bioc_json.read_chunk,
        bioc_json.split,
        copy_bioc_json,
    ),
    "pubtator": Format(
        re.compile(_PUBTATOR_SIGN, re.M),
        pubtator.cut,
        pubtator.read_chunk,
        pubtator.split,
        copy_pubtator,
    ),
}

CORPORA: dict[str, RelationSchema] = {
    "biored": biored.SCHEMA,
    "bc5cdr": bc5cdr.SCHEMA,
}


def read_chunks(source: str | Path, tally: Tally, watch: Watch | None = None) -> Iterator[Chunk]:
    """Cut all files of a source (path, folder, archive or URL) into chunks for `read_raw`.

    Lazy. Errors and `tally` are as in `read_documents`; `watch` sees the stored bytes.
    """
    return _cut_files(locate(str(source)), tally, watch)


def read_raw(chunk: Chunk, tally: Tally, with_relations: bool = True) -> Iterator[RawDocument]:
    """Yield the unchecked documents of a chunk; any process can read any chunk.

    Relations take a tenth of the time; skip them with `with_relations=False`.
    """
    return FORMATS[chunk.format].read(chunk, tally, with_relations)


def read_checked(source: str | Path, tally: Tally) -> Iterator[CheckedDocument]:
    """Yield every document of a source, checked and without relations; else as `read_documents`."""
    chunks = read_chunks(source, tally)
    raws = (raw for chunk in chunks for raw in read_raw(chunk, tally, with_relations=False))
    return (check(raw, tally) for raw in raws)


def read_documents(source: str | Path, tally: Tally) -> Iterator[Document]:
    """Yield every document of a source, lazily; the format of each file is detected.

    `source` is a PubTator or BioC file, a folder (read recursively), a .gz, .tar or .tar.gz, or a
    URL of one. Damaged or unreadable parts are counted in `tally` and skipped.

    Raises at the call FileNotFoundError for a missing path and Refused for a URL of another scheme;
    while iterating, FileNotFoundError for an empty folder or a broken link, Refused if `source` is
    itself a file of no known format, and StoreFailed if a remote store keeps failing.
    """
    chunks = read_chunks(source, tally)
    return (assemble(raw, tally) for chunk in chunks for raw in read_raw(chunk, tally))


def _cut_files(source: Source, tally: Tally, watch: Watch | None) -> Iterator[Chunk]:
    files = list_files(source)
    for file in files:
        for opened in open_plain(file, files != [source], tally, watch):
            yield from _cut_plain(opened, tally)


def _cut_plain(opened: Opened, tally: Tally) -> Iterator[Chunk]:
    name = detect_format(opened.stream.peek(HEAD_BYTES))
    if name is not None:
        yield from FORMATS[name].cut(Window(opened.stream, opened.name, tally))
    elif opened.inside:
        tally.drop("file/unknown_format", opened.name)
    else:
        raise Refused(
            f"cannot tell the format of {opened.name!r}: give a file of {', '.join(FORMATS)}"
        )


def detect_format(head: bytes) -> str | None:
    """Return the name of the format that a file begins with, None if unknown.

    >>> detect_format(b"10491763|t|Hepatocyte nuclear factor-6")
    'pubtator'
    """
    return next((name for name, format in FORMATS.items() if format.sign.search(head)), None)


def copy_with_relations(
    source: Source,
    target: Path,
    tally: Tally,
    predict: Callable[[Iterator[Document]], Iterator[Document]],
) -> bool:
    """Copy a file unchanged except for its relations, which come from `predict`.

    `predict` maps the file's documents to documents with relations, one for one and in order. An
    archive is copied to one uncompressed tar. The write is atomic. Files that are no corpus and
    parts that cannot be read are counted in `tally`. Returns False, writing nothing, if there was
    no corpus to copy. Raises OSError if the file changed while it was read, Refused if two files
    of an archive would get the same name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    formats: list[str | None] = []
    raws = _raws(source, tally, formats)
    originals = (Original(member, data, assemble(raw, tally)) for member, data, raw in raws)
    edits = edit(originals, predict)
    again = open_plain(source, inside=False, tally=Tally())
    names = ((opened, detect_format(opened.stream.peek(HEAD_BYTES))) for opened in again)
    members = ((opened, FORMATS[name].copy if name else None) for opened, name in names)
    with atomic_file(target) as partial:
        write_copy(partial, source.name, members, edits)
        if not any(formats):
            partial.unlink()
    return any(formats)


def documents_to_copy(source: Source, tally: Tally, wanted: Iterator[bool]) -> Iterator[Document]:
    """Yield those documents that `copy_with_relations` passes to `predict` for which `wanted` is
    true. The others are not assembled, which is the most expensive part of reading."""
    raws = _raws(source, tally, [])
    return (assemble(raw, tally) for _, _, raw in compress(raws, wanted))


def _raws(
    source: Source, tally: Tally, formats: list[str | None]
) -> Iterator[tuple[int, bytes, RawDocument]]:
    """Yield the file index, the bytes and the raw document of each document of a source.

    Appends each file's format to `formats`.
    """
    for member, opened in enumerate(open_plain(source, inside=False, tally=tally)):
        name = detect_format(opened.stream.peek(HEAD_BYTES))
        formats.append(name)
        if name is None:
            tally.drop("file/unknown_format", opened.name)
            continue
        for chunk in FORMATS[name].cut(Window(opened.stream, opened.name, tally)):
            for data, one in FORMATS[name].split(chunk):
                yield from ((member, data, raw) for raw in read_raw(one, tally))
