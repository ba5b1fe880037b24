"""Read and write corpora: the tables of file formats and of named corpora.

for doc in read_documents("pubmed.tar.gz", tally): ...
write_pubtator("predicted.PubTator", docs)
"""

import re
from collections import deque
from collections.abc import Callable, Iterator
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
    Edit,
    Slice,
    edit_bioc_json,
    edit_bioc_xml,
    edit_pubtator,
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

# Of documents that are predicted together; a GPU is idle for a moment at the end of each slice, and
# on CPUs a slice takes a minute or more.
SLICE_BYTES = 4 << 20

Predict = Callable[[Iterator[Document]], Iterator[Document]]


class Format(NamedTuple):
    """The signature at the start of a file format, and the functions that process its files.

    `cut` yields chunks of a file, `read` the raw documents of a chunk. `split` yields the pieces of
    a chunk that are edited by themselves: the bytes in the file, and a chunk to read them from.
    `edit` returns the bytes of a piece with the relations of its documents.
    """

    sign: re.Pattern[bytes]
    cut: Callable[[Window], Iterator[Chunk]]
    read: Callable[[Chunk, Tally, bool], Iterator[RawDocument]]
    split: Callable[[Chunk], Iterator[tuple[bytes, Chunk]]]
    edit: Callable[[bytes, list[Document]], bytes]


_XML_SIGN = rb"\A(?:\xef\xbb\xbf)?\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*)*+<(?:!DOCTYPE\s+)?collection\b"
_JSON_SIGN = rb'\A(?:\xef\xbb\xbf)?\s*[\[{].*?"(?:documents|PubTator3|passages)"\s*:'
_PUBTATOR_SIGN = rb"^(?:\xef\xbb\xbf)?[^|\t\r\n]+\|[ta]\|"

FORMATS: dict[str, Format] = {
    "bioc_xml": Format(
        re.compile(_XML_SIGN, re.DOTALL),
        bioc_xml.cut,
        bioc_xml.read_chunk,
        bioc_xml.split,
        edit_bioc_xml,
    ),
    "bioc_json": Format(
        re.compile(_JSON_SIGN, re.DOTALL),
        bioc_json.cut,
        bioc_json.read_chunk,
        bioc_json.split,
        edit_bioc_json,
    ),
    "pubtator": Format(
        re.compile(_PUBTATOR_SIGN, re.M),
        pubtator.cut,
        pubtator.read_chunk,
        pubtator.split,
        edit_pubtator,
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
    head = opened.stream.peek(HEAD_BYTES)
    name = detect_format(head)
    if name is not None:
        yield from FORMATS[name].cut(Window(opened.stream, opened.name, tally))
    elif opened.inside:
        tally.drop("file/unknown_format", opened.name)
    else:
        found = "it is empty" if not head else "it begins like none of them"
        raise Refused(
            f"cannot tell the format of {opened.name!r}: give a PubTator, BioC-XML or BioC-JSON "
            f"file; {found}"
        )


def detect_format(head: bytes) -> str | None:
    """Return the name of the format that a file begins with, None if unknown.

    >>> detect_format(b"10491763|t|Hepatocyte nuclear factor-6")
    'pubtator'
    """
    return next((name for name, format in FORMATS.items() if format.sign.search(head)), None)


def copy_with_relations(source: Source, target: Path, tally: Tally, predict: Predict) -> bool:
    """Copy a file unchanged except for its relations, which come from `predict`.

    `predict` maps the documents of a slice to documents with relations, one for one and in order;
    otherwise as `copy_edited`.
    """
    return copy_edited(source, target, tally, lambda one: edit_slice(one, tally, predict))


def copy_edited(
    source: Source, target: Path, tally: Tally, edit: Callable[[Slice], list[bytes]]
) -> bool:
    """Copy a file unchanged except for its documents, which `edit` changes as `edit_slice` does.

    An archive is copied to one uncompressed tar. The write is atomic. Files that are no corpus and
    parts that cannot be read are counted in `tally`. Returns False, writing nothing, if there was
    no corpus to copy. Raises OSError if the file changed while it was read, Refused if two files
    of an archive would get the same name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    edits = (
        Edit(member, old, new)
        for one in slices_of(source, tally)
        for (member, old, _), new in zip(_pieces(one), edit(one), strict=True)
    )
    again = open_plain(source, inside=False, tally=Tally())
    members = ((opened, detect_format(opened.stream.peek(HEAD_BYTES))) for opened in again)
    with atomic_file(target) as partial:
        is_corpus = write_copy(partial, source.name, members, edits)
        if not is_corpus:
            partial.unlink()
    return is_corpus


def slices_of(source: Source, tally: Tally) -> Iterator[Slice]:
    """Cut all plain files of a source into slices of about SLICE_BYTES, a function of its content.

    Only searches for the marks between documents; any process can edit any slice.
    """
    watch, before = Watch(), 0
    number, size, chunks = 0, 0, list[tuple[int, Chunk]]()
    for member, opened in enumerate(open_plain(source, False, tally, watch)):
        name = detect_format(opened.stream.peek(HEAD_BYTES))
        if name is None:
            tally.drop("file/unknown_format", opened.name)
            continue
        for chunk in FORMATS[name].cut(Window(opened.stream, opened.name, tally, SLICE_BYTES)):
            chunks.append((member, chunk))
            size += len(chunk.data)
            if size >= SLICE_BYTES // 2:  # a chunk ends before the window does
                yield Slice(number, chunks, watch.num_bytes - before)
                before = watch.num_bytes
                number, size, chunks = number + 1, 0, []
    if chunks:
        yield Slice(number, chunks, watch.num_bytes - before)


def edit_slice(one: Slice, tally: Tally, predict: Predict) -> list[bytes]:
    """Return the bytes of each piece of a slice with the relations that `predict` gives its
    documents."""
    pieces = list(_pieces(one))
    docs_of: list[list[Document]] = [[] for _ in pieces]
    owners = deque[list[Document]]()

    def documents() -> Iterator[Document]:
        for (_, _, chunk), owner in zip(pieces, docs_of, strict=True):
            for raw in read_raw(chunk, tally):
                owners.append(owner)
                yield assemble(raw, tally)

    for doc in predict(documents()):
        owners.popleft().append(doc)
    return [
        FORMATS[chunk.format].edit(old, docs)
        for (_, old, chunk), docs in zip(pieces, docs_of, strict=True)
    ]


def _pieces(one: Slice) -> Iterator[tuple[int, bytes, Chunk]]:
    """Yield the file index, the bytes and the chunk of each piece of a slice."""
    for member, chunk in one.chunks:
        for old, piece in FORMATS[chunk.format].split(chunk):
            yield member, old, piece
