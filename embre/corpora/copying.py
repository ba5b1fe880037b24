"""A file copied as it is, but for its relations.

    file ──▶ Original ─predict─▶ Original             the same with other relations
    file again ─write_copy─▶ the same bytes with the relations of those

Both go through the file as a stream; only the documents that are between them are held.
"""

import codecs
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
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

SPOOL_BYTES = 16 << 20  # of a member of an archive that is in memory until its size is known


Copy = Callable[[Opened, BinaryIO, Iterator["Original"]], None]


class Original(NamedTuple):
    """A document, as it was read or with the relations that it is to have, and the bytes that it
    was read from. `member` counts the plain files of its source; PubTator text has no `data`,
    because a document is found there by its id."""

    member: int
    data: bytes
    doc: Document


def unpacked_name(name: str) -> str:
    """The name of a copy, which is not compressed."""
    name = name.removesuffix(".gz")
    return f"{name[:-4]}.tar" if name.endswith(".tgz") else name


def edit(
    originals: Iterable[Original],
    predict: Callable[[Iterator[Document]], Iterator[Document]],
) -> Iterator[Original]:
    """What `predict` makes of the documents, one for one and in their order."""
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
    """Copy the plain files of a source, each with what copies its format (None: it is left out)
    and its edits.

    What an archive holds comes out as one tar. Raises OSError where the source is no longer what
    the edits were made of, Refused where two of its files would have one name.
    """
    names: dict[str, str] = {}
    groups = groupby(edits, key=_member_of)
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
        raise OSError(f"{source}: it was changed while it was read; run the same command again")


def _member_of(edit: Original) -> int:
    return edit.member


def copy_pubtator(opened: Opened, target: BinaryIO, edits: Iterator[Original]) -> None:
    pubtator_write.copy_with_relations(opened.stream, target, (one.doc for one in edits))


def copy_bioc_xml(opened: Opened, target: BinaryIO, edits: Iterator[Original]) -> None:
    window = _window(opened, target)
    as_utf_8(window)
    changed = ((one.data, bioc_xml_write.with_relations(one.data, one.doc)) for one in edits)
    _splice(window, target, changed)


def copy_bioc_json(opened: Opened, target: BinaryIO, edits: Iterator[Original]) -> None:
    changed = ((one.data, bioc_json_write.with_relations(one.data, one.doc)) for one in edits)
    _splice(_window(opened, target), target, changed)


def _window(opened: Opened, target: BinaryIO) -> Window:
    """A stream to copy from; what cannot be read of it is counted by its reader."""
    head = opened.stream.peek(HEAD_BYTES)
    target.write(codecs.BOM_UTF8 if head.startswith(codecs.BOM_UTF8) else b"")  # a window has none
    window = Window(opened.stream, opened.name, Tally())
    window.more()
    return window


def _splice(window: Window, target: BinaryIO, changed: Iterator[tuple[bytes, bytes]]) -> None:
    """Copy a window to its end, with new bytes in place of old ones, which come in its order."""
    for old, new in changed:
        while (at := window.data.find(old, window.at)) < 0:
            # What may be the beginning of the old bytes stays.
            target.write(window.take(max(window.at, len(window.data) - len(old) + 1)))
            if not window.more():
                raise OSError(
                    f"{window.file}: it was changed while it was read; run the same command again"
                )
        target.write(window.take(at))
        window.skip(at + len(old))
        target.write(new)
    while True:
        target.write(window.take(len(window.data)))
        if not window.more():
            return
