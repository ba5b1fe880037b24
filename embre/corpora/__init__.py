"""Text in and out: every format and every named corpus, each a line in a table.

for doc in read_documents("pubmed.tar.gz", tally): ...
write_documents("predicted.PubTator", docs, like="pubtator")
"""

import gzip
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import compress
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from embre.atomic_files import atomic_file
from embre.corpora import (
    bc5cdr,
    bioc_json,
    bioc_json_write,
    bioc_xml,
    biored,
    pubtator,
    pubtator_write,
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
from embre.corpora.raw import CheckedDocument, Chunk, RawDocument
from embre.corpora.sources import HEAD_BYTES, Opened, Source, Watch, list_files, locate, open_plain
from embre.corpora.window import Window
from embre.document import Document
from embre.refused import Refused
from embre.relation_schema import RelationSchema
from embre.tally import Tally


class Format(NamedTuple):
    """How a file of a format begins, and what cuts, reads, copies and writes it.

    `split` gives the documents of a chunk one by one: the bytes of each in the file, and the chunk
    that is read for it. `copy` copies a file with other relations.
    """

    sign: re.Pattern[bytes]
    cut: Callable[[Window], Iterator[Chunk]]
    read: Callable[[Chunk, Tally, bool], Iterator[RawDocument]]
    split: Callable[[Chunk], Iterator[tuple[bytes, Chunk]]]
    copy: Copy
    write: Callable[[BinaryIO, Iterable[Document]], None] | None = None


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
        bioc_json_write.write,
    ),
    "pubtator": Format(
        re.compile(_PUBTATOR_SIGN, re.M),
        pubtator.cut,
        pubtator.read_chunk,
        pubtator.split,
        copy_pubtator,
        pubtator_write.write,
    ),
}

CORPORA: dict[str, RelationSchema] = {
    "biored": biored.SCHEMA,
    "bc5cdr": bc5cdr.SCHEMA,
}


def read_chunks(source: str | Path, tally: Tally, watch: Watch | None = None) -> Iterator[Chunk]:
    """Every file of a file, a folder or an archive, cut into chunks that `read_raw` reads.

    What cannot be read is counted in `tally`. Only a source that is not there, or that is itself
    no corpus, raises.
    """
    return _cut_files(locate(str(source)), tally, watch)


def read_raw(chunk: Chunk, tally: Tally, with_relations: bool = True) -> Iterator[RawDocument]:
    """The documents of a chunk, unchecked; any process can read any chunk.

    Relations are a tenth of the work; who needs none may have the documents without.
    """
    return FORMATS[chunk.format].read(chunk, tally, with_relations)


def read_checked(source: str | Path, tally: Tally) -> Iterator[CheckedDocument]:
    """Every document of a file, a folder or an archive, checked and without its relations."""
    chunks = read_chunks(source, tally)
    raws = (raw for chunk in chunks for raw in read_raw(chunk, tally, with_relations=False))
    return (check(raw, tally) for raw in raws)


def read_documents(source: str | Path, tally: Tally) -> Iterator[Document]:
    """Every document of a file, a folder or an archive, whatever its format is."""
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
            f"cannot tell the format of {opened.name!r}: it looks like none of {', '.join(FORMATS)}"
        )


def detect_format(head: bytes) -> str | None:
    """The format that a file's first bytes show, None for anything else.

    >>> detect_format(b"10491763|t|Hepatocyte nuclear factor-6")
    'pubtator'
    """
    return next((name for name, format in FORMATS.items() if format.sign.search(head)), None)


def write_documents(path: str | Path, documents: Iterable[Document], like: str) -> None:
    """Write documents in a format; a name that ends in `.gz` is compressed.

    The file takes its name when it is complete, so half a file never passes for a whole one.
    """
    write = FORMATS[like].write if like in FORMATS else None
    if write is None:
        writable = ", ".join(name for name, format in FORMATS.items() if format.write)
        raise Refused(f"cannot write {like!r}: choose one of {writable}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial, partial.open("wb") as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(path.name, "wb", fileobj=file) as stream:
                write(cast(BinaryIO, stream), documents)
        else:
            write(file, documents)


def copy_with_relations(
    source: Source,
    target: Path,
    tally: Tally,
    predict: Callable[[Iterator[Document]], Iterator[Document]],
) -> bool:
    """Copy a file as it is, but for the relations: those of the documents that `predict` gives for
    the file's own, one for one and in order. What an archive holds comes out as one tar.

    The file takes its name when it is complete. What is no corpus or cannot be read is counted in
    `tally`; False where there was no corpus to copy. Raises OSError where the file was changed
    meanwhile.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    formats: list[str | None] = []
    edits = edit(_originals(source, tally, formats), predict)
    again = open_plain(source, inside=False, tally=Tally())
    names = ((opened, detect_format(opened.stream.peek(HEAD_BYTES))) for opened in again)
    members = ((opened, FORMATS[name].copy if name else None) for opened, name in names)
    with atomic_file(target) as partial:
        write_copy(partial, source.name, members, edits)
        if not any(formats):
            partial.unlink()
    return any(formats)


def documents_to_copy(source: Source, tally: Tally, wanted: Iterator[bool]) -> Iterator[Document]:
    """Those `wanted` of the documents that `copy_with_relations` hands to `predict`; of the others
    the most expensive part of reading, to assemble them, is left out."""
    raws = _raws(source, tally, [])
    return (assemble(raw, tally) for _, _, raw in compress(raws, wanted))


def _originals(source: Source, tally: Tally, formats: list[str | None]) -> Iterator[Original]:
    """The documents of a source with their bytes; the formats of its files go into `formats`."""
    for member, data, raw in _raws(source, tally, formats):
        yield Original(member, data, assemble(raw, tally))


def _raws(
    source: Source, tally: Tally, formats: list[str | None]
) -> Iterator[tuple[int, bytes, RawDocument]]:
    """The same before they are assembled, with the number of the file and their bytes."""
    for member, opened in enumerate(open_plain(source, inside=False, tally=tally)):
        name = detect_format(opened.stream.peek(HEAD_BYTES))
        formats.append(name)
        if name is None:
            tally.drop("file/unknown_format", opened.name)
            continue
        for chunk in FORMATS[name].cut(Window(opened.stream, opened.name, tally)):
            for data, one in FORMATS[name].split(chunk):
                yield from ((member, data, raw) for raw in read_raw(one, tally))
