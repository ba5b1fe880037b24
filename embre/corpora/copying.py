"""Copy a file unchanged except for its relations.

    file ──▶ Original ─predict─▶ Original             the document with other relations
    file again ─write_copy─▶ the same bytes with those relations

Both passes stream the file; only the documents between the two are held in memory.
"""

import codecs
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, NamedTuple, cast

from embre.corpora import bioc_json_write, bioc_xml_write, pubtator_write
from embre.corpora.encodings import as_utf_8
from embre.corpora.sources import HEAD_BYTES, Opened
from embre.corpora.window import Window
from embre.document import Document
from embre.refused import Refused
from embre.tally import Tally

SPOOL_BYTES = 16 << 20  # of an archive member in memory until its size is known; above, on disk


Copy = Callable[[Opened, BinaryIO, Iterator["Original"]], None]


class Original(NamedTuple):
    """A document, as read or with its new relations, and the bytes it was read from.

    `member` is the index of its plain file in the source. `data` is empty for PubTator text, whose
    documents are found by id.
    """

    member: int
    data: bytes
    doc: Document


def unpacked_name(name: str) -> str:
    """Return the name of the uncompressed copy: without .gz, and .tar for .tgz."""
    name = name.removesuffix(".gz")
    return f"{name[:-4]}.tar" if name.endswith(".tgz") else name


def edit(
    originals: Iterable[Original],
    predict: Callable[[Iterator[Document]], Iterator[Document]],
) -> Iterator[Original]:
    """Apply `predict` to the documents, one for one and in order."""
    waiting: deque[Original] = deque()

    def documents() -> Iterator[Document]:
        for original in originals:
            waiting.append(original)
            yield original.doc

    for doc in predict(documents()):
        yield waiting.popleft()._replace(doc=doc)


def write_copy(
    target: Path,
    source: str,
    members: Iterable[tuple[Opened, Copy | None]],
    edits: Iterator[Original],
) -> None:
    """Copy the plain files of a source with their edits.

    `members` gives each file and the function that copies its format, None to leave the file out.
    An archive becomes one uncompressed tar. Raises OSError if the source no longer matches the
    edits, Refused if two of its files would get the same name.
    """
    names: dict[str, str] = {}
    groups = groupby(edits, key=attrgetter("member"))
    ahead = next(groups, None)
    with target.open("wb") as written:
        archive: tarfile.TarFile | None = None
        for number, (opened, copy) in enumerate(members):
            own = ahead[1] if ahead and ahead[0] == number else iter(())
            if copy and not opened.inside:
                copy(opened, written, own)
            elif copy:
                inner = opened.name.removeprefix(source).lstrip("/")
                if (before := names.setdefault(unpacked_name(inner), inner)) != inner:
                    raise Refused(
                        f"{source}: {before} and {inner} would both be {unpacked_name(inner)} in "
                        "the output; rename one of the two, or unpack the archive"
                    )
                archive = archive or tarfile.open(fileobj=written, mode="w")
                with SpooledTemporaryFile(SPOOL_BYTES, dir=str(target.parent)) as spool:
                    copy(opened, cast(BinaryIO, spool), own)
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


def copy_pubtator(opened: Opened, target: BinaryIO, edits: Iterator[Original]) -> None:
    """Copy PubTator text to `target` with the relations of `edits`, matched by document id.

    Raises OSError if the file does not contain the documents of `edits` in their order.
    """
    pubtator_write.copy_with_relations(opened.stream, target, (one.doc for one in edits))


def copy_bioc_xml(opened: Opened, target: BinaryIO, edits: Iterator[Original]) -> None:
    """Copy BioC-XML to `target` as UTF-8, replacing each edited `<document>` element.

    Raises OSError if the bytes of an edited document are not found in the file.
    """
    window = _window(opened, target)
    as_utf_8(window)
    changed = ((one.data, bioc_xml_write.with_relations(one.data, one.doc)) for one in edits)
    _splice(window, target, changed)


def copy_bioc_json(opened: Opened, target: BinaryIO, edits: Iterator[Original]) -> None:
    """Copy BioC-JSON to `target`, replacing each edited document object.

    Raises OSError if the bytes of an edited document are not found in the file.
    """
    changed = ((one.data, bioc_json_write.with_relations(one.data, one.doc)) for one in edits)
    _splice(_window(opened, target), target, changed)


def _window(opened: Opened, target: BinaryIO) -> Window:
    """A window to copy from. Its losses are not counted: the reader has counted them."""
    head = opened.stream.peek(HEAD_BYTES)
    target.write(codecs.BOM_UTF8 if head.startswith(codecs.BOM_UTF8) else b"")  # a window has none
    window = Window(opened.stream, opened.name, Tally())
    window.more()
    return window


def _splice(window: Window, target: BinaryIO, changed: Iterator[tuple[bytes, bytes]]) -> None:
    """Copy a window to its end, replacing old bytes by new ones; the pairs come in file order."""
    for old, new in changed:
        while (at := window.data.find(old, window.at)) < 0:
            # Keep what may be the start of the old bytes.
            target.write(window.take(max(window.at, len(window.data) - len(old) + 1)))
            if not window.more():
                raise OSError(
                    f"{window.file}: changed while it was read; run the same command again"
                )
        target.write(window.take(at))
        window.skip(at + len(old))
        target.write(new)
    while True:
        target.write(window.take(len(window.data)))
        if not window.more():
            return
