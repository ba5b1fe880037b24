"""Write made-up documents as PubTator text and BioC-XML, the two formats of dumps."""

import gc
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from isal import igzip
from made_up_dump import MadeUpDocument, make_documents

MEMBER_BYTES = 12_000_000  # members of the real archives have 10 to 15 MB
XML_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE collection SYSTEM "BioC.dtd">
<collection><source>PubTator</source><date></date><key>BioC.key</key>"""
XML_TAIL = "</collection>\n"


def write_text(folder: Path, num_documents: int, seed: int, num_files: int = 1) -> list[str]:
    """Write gzipped PubTator text in `num_files` files of equal size; return their paths."""
    return _write(folder, "PubTator.gz", num_documents, seed, num_files, _write_text)


def write_xml(folder: Path, num_documents: int, seed: int, num_files: int = 1) -> list[str]:
    """Write BioC-XML in `.tar.gz` archives, as on the FTP server; return their paths."""
    return _write(folder, "BioCXML.tar.gz", num_documents, seed, num_files, _write_xml)


def _write(
    folder: Path,
    ending: str,
    num_documents: int,
    seed: int,
    num_files: int,
    write: Callable[[Path, Iterable[MadeUpDocument]], None],
) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    docs, paths = make_documents(num_documents, seed), []
    with _no_collector():
        for index in range(num_files):
            part = num_documents * (index + 1) // num_files - num_documents * index // num_files
            path = folder / f"{index}.{ending}"
            write(path, islice(docs, part))
            paths.append(str(path))
    return paths


def _write_text(path: Path, docs: Iterable[MadeUpDocument]) -> None:
    with igzip.IGzipFile(path, "wb") as stream:
        for doc in docs:
            stream.write(as_pubtator(doc).encode())


def _write_xml(path: Path, docs: Iterable[MadeUpDocument]) -> None:
    with igzip.IGzipFile(path, "wb") as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        for number, member in enumerate(_members(docs)):
            info = tarfile.TarInfo(f"output/BioCXML/{number}.BioC.XML")
            info.size = len(member)
            archive.addfile(info, io.BytesIO(member))


def _members(docs: Iterable[MadeUpDocument]) -> Iterator[bytes]:
    parts, size = [XML_HEAD], 0
    for doc in docs:
        parts.append(as_bioc_xml(doc))
        size += len(parts[-1])
        if size > MEMBER_BYTES:
            yield "".join([*parts, XML_TAIL]).encode()
            parts, size = [XML_HEAD], 0
    if size:
        yield "".join([*parts, XML_TAIL]).encode()


def as_pubtator(doc: MadeUpDocument) -> str:
    """Format a document as PubTator text, in PubTator 3's spelling."""
    doc_id, text, title_end, mentions, relations = doc
    lines = [f"{doc_id}|t|{text[:title_end]}", f"{doc_id}|a|{text[title_end + 1 :]}"]
    lines += [
        f"{doc_id}\t{start}\t{end}\t{surface}\t{kind}\t{identifier}"
        for start, end, surface, (kind, identifier) in mentions
    ]
    lines += [
        f"{doc_id}\t{kind}\t{head[1]}\t{tail[1]}\tNone\t{score}"
        for kind, head, tail, score in relations
    ]
    return "\n".join([*lines, "", ""])


def as_bioc_xml(doc: MadeUpDocument) -> str:
    """Format a document as a `<document>` of a BioCXML archive of PubTator 3."""
    doc_id, text, title_end, mentions, relations = doc
    annotations = [
        f'<annotation id="{number}"><infon key="identifier">{identifier}</infon>'
        f'<infon key="type">{kind}</infon><location offset="{start}" length="{end - start}"/>'
        f"<text>{_escaped(surface)}</text></annotation>"
        for number, (start, end, surface, (kind, identifier)) in enumerate(mentions, start=2)
    ]
    num_in_title = sum(mention[0] < title_end for mention in mentions)
    relation_elements = [
        f'<relation id="R{number}"><infon key="score">{score}</infon>'
        f'<infon key="role1">{"|".join(head)}</infon><infon key="role2">{"|".join(tail)}</infon>'
        f'<infon key="type">{kind}</infon></relation>'
        for number, (kind, head, tail, score) in enumerate(relations, start=1)
    ]
    return (
        f'<document><id>{doc_id}</id><passage><infon key="journal">J Made Up Res; 2024 Jan; '
        f'7 (1) {doc_id}. doi:10.0000/{doc_id}</infon><infon key="year">2024</infon>'
        '<infon key="type">title</infon><infon key="authors">Someone A, Noone B, </infon>'
        f"<offset>0</offset><text>{_escaped(text[:title_end])}</text>"
        f"{''.join(annotations[:num_in_title])}</passage>"
        f'<passage><infon key="type">abstract</infon><offset>{title_end + 1}</offset>'
        f"<text>{_escaped(text[title_end + 1 :])}</text>{''.join(annotations[num_in_title:])}"
        f"</passage>{''.join(relation_elements)}</document>"
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@contextmanager
def _no_collector() -> Iterator[None]:
    """Disable the garbage collector, which takes a quarter of the time; there are no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
