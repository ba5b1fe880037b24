"""Copy a file unchanged except for its relations.

    file ─▶ Slice ─▶ Edits       the bytes of documents, old and with other relations
    file again ─write_copy─▶ the same bytes with the new ones

Both passes stream the file; only the slice between the two is held in memory.
"""

import codecs
import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, NamedTuple, cast

from embre.corpora import bioc_json_write, bioc_xml_write, pubtator_write
from embre.corpora.encodings import as_utf_8
from embre.corpora.raw import Chunk
from embre.corpora.sources import HEAD_BYTES, Opened
from embre.corpora.window import Window
from embre.document import Document
from embre.refused import Refused
from embre.tally import Tally

SPOOL_BYTES = 16 << 20  # of an archive member in memory until its size is known; above, on disk


class Slice(NamedTuple):
    """Some consecutive megabytes of a source, whose documents are predicted together.

    Each chunk comes with the index of its plain file in the source. `stored_bytes` is the number of
    bytes, as stored, that were read to cut the slice.
    """

    number: int
    chunks: list[tuple[int, Chunk]]
    stored_bytes: int

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes of the documents."""
        sha256 = hashlib.sha256()
        for _, chunk in self.chunks:
            sha256.update(chunk.data)
        return sha256.hexdigest()


class Edit(NamedTuple):
    """The bytes of one or more documents in plain file `member`, and what replaces them."""

    member: int
    old: bytes
    new: bytes


def unpacked_name(name: str) -> str:
    """Return the name of the uncompressed copy: without .gz, and .tar for .tgz."""
    name = name.removesuffix(".gz")
    return f"{name[:-4]}.tar" if name.endswith(".tgz") else name


def write_copy(
    target: Path, source: str, members: Iterable[tuple[Opened, str | None]], edits: Iterator[Edit]
) -> bool:
    """Copy the plain files of a source with their edits; return whether there is any.

    `members` gives each file and its format; those without one are left out. An archive becomes one
    uncompressed tar. Raises OSError if the source no longer matches the edits, Refused if two
    of its files would get the same name.
    """
    names: dict[str, str] = {}
    groups = groupby(edits, key=attrgetter("member"))
    ahead = next(groups, None)
    copied = False
    with target.open("wb") as written:
        archive: tarfile.TarFile | None = None
        for number, (opened, format) in enumerate(members):
            own = ahead[1] if ahead and ahead[0] == number else iter(())
            copied = copied or format is not None
            if format and not opened.inside:
                _splice(opened, written, own)
            elif format:
                inner = opened.name.removeprefix(source).lstrip("/")
                if (before := names.setdefault(unpacked_name(inner), inner)) != inner:
                    raise Refused(
                        f"{source}: {before} and {inner} would both be {unpacked_name(inner)} in "
                        "the output; rename one of the two, or unpack the archive"
                    )
                archive = archive or tarfile.open(fileobj=written, mode="w")
                with SpooledTemporaryFile(SPOOL_BYTES, dir=str(target.parent)) as spool:
                    _splice(opened, cast(BinaryIO, spool), own)
                    member = tarfile.TarInfo(unpacked_name(inner))
                    member.size = spool.tell()
                    spool.seek(0)
                    archive.addfile(member, cast(BinaryIO, spool))
            if ahead and ahead[0] == number:
                ahead = next(groups, None)
        if archive:
            archive.close()
    if ahead:
        raise OSError(f"{source}: changed while it was read; run the same command again")
    return copied


def edit_pubtator(data: bytes, docs: list[Document]) -> bytes:
    """Return PubTator text with the relations of `docs`, all that it contains."""
    target = io.BytesIO()
    pubtator_write.copy_with_relations(io.BytesIO(data), target, iter(docs))
    return target.getvalue()


def edit_bioc_xml(data: bytes, docs: list[Document]) -> bytes:
    """Return a `<document>` element with the relations of its document, if it could be read."""
    return bioc_xml_write.with_relations(data, docs[0]) if docs else data


def edit_bioc_json(data: bytes, docs: list[Document]) -> bytes:
    """Return a document object with the relations of its document, if it could be read."""
    return bioc_json_write.with_relations(data, docs[0]) if docs else data


def _splice(opened: Opened, target: BinaryIO, edits: Iterator[Edit]) -> None:
    """Copy a file to `target`, XML as UTF-8, with its edits, which come in file order.

    Raises OSError if the old bytes of an edit are not found.
    """
    head = opened.stream.peek(HEAD_BYTES)
    target.write(codecs.BOM_UTF8 if head.startswith(codecs.BOM_UTF8) else b"")  # a window has none
    # Losses are not counted here: the reader has counted them.
    window = Window(opened.stream, opened.name, Tally())
    window.more()
    as_utf_8(window)
    for edit in edits:
        while (at := window.data.find(edit.old, window.at)) < 0:
            # Keep what may be the start of the old bytes.
            target.write(window.take(max(window.at, len(window.data) - len(edit.old) + 1)))
            if not window.more():
                raise OSError(
                    f"{window.file}: changed while it was read; run the same command again"
                )
        target.write(window.take(at))
        window.skip(at + len(edit.old))
        target.write(edit.new)
    while True:
        target.write(window.take(len(window.data)))
        if not window.more():
            return
