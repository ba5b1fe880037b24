"""Baselines of sharding: straightforward programs with common libraries, in one process.

    gzip, a line parser            ─▶ Hugging Face tokenizer, one document at a time, with offsets
    tar, `bioc` or an lxml tree    ─▶     ─▶ mentions to tokens ─▶ three WebDataset members each

Independent of `embre`, so that equal results confirm both.
"""

import gzip
import json
import tarfile
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from bioc import biocxml
from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
from transformers import AutoTokenizer
from webdataset.writer import ShardWriter

TYPES = {"Gene": 0, "Disease": 1, "Chemical": 2, "ProteinMutation": 3, "Species": 4, "CellLine": 5}
DOCS_PER_SHARD = 10_000


@dataclass(slots=True)
class Article:
    doc_id: str
    text: str
    mentions: list[tuple[int, int, str, str]] = field(default_factory=list)


def read_text(path: str) -> Iterator[Article]:
    """Read PubTator text, line by line."""
    article = None
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        for line in lines:
            line = line.rstrip("\n")
            if not line:
                if article is not None:
                    yield article
                article = None
            elif article is None:
                doc_id, _, title = line.split("|", 2)
                article = Article(doc_id, title)
            elif line.startswith(f"{article.doc_id}|a|"):
                article.text += " " + line.split("|", 2)[2]
            else:
                columns = line.split("\t")
                if columns[1].isdigit():
                    start, end, _, kind, identifier = columns[1:6]
                    article.mentions.append((int(start), int(end), kind, identifier))
    if article is not None:
        yield article


def read_with_bioc(path: str) -> Iterator[Article]:
    """Read BioC-XML with the `bioc` library, one document at a time."""
    for stream in _members(path):
        for document in biocxml.BioCXMLDocumentReader(stream):  # type: ignore[arg-type]
            article = Article(document.id, "")
            for passage in document.passages:
                article.text = article.text.ljust(passage.offset) + passage.text
                for annotation in passage.annotations:
                    location, infons = annotation.locations[0], annotation.infons
                    end = location.offset + location.length
                    article.mentions.append(
                        (location.offset, end, infons["type"], infons["identifier"])
                    )
            yield article


def read_with_dom(path: str) -> Iterator[Article]:
    """Read BioC-XML with lxml, each archive member as one tree."""
    for stream in _members(path):
        for document in etree.parse(stream).getroot().iterfind("document"):
            article = Article(document.findtext("id"), "")
            for passage in document.iterfind("passage"):
                offset = int(passage.findtext("offset"))
                article.text = article.text.ljust(offset) + (passage.findtext("text") or "")
                for annotation in passage.iterfind("annotation"):
                    infons = {
                        infon.get("key"): infon.text for infon in annotation.iterfind("infon")
                    }
                    location = annotation.find("location")
                    start = int(location.get("offset"))
                    end = start + int(location.get("length"))
                    article.mentions.append((start, end, infons["type"], infons["identifier"]))
            yield article


READERS: dict[str, Callable[[str], Iterator[Article]]] = {
    "text": read_text,
    "xml (bioc)": read_with_bioc,
    "xml (lxml tree)": read_with_dom,
}


def run_naive(reader: str, inputs: Iterable[str], tokenizer: Any, out: Path) -> int:
    """Write all documents of the inputs as WebDataset shards; return their number."""
    out.mkdir(parents=True, exist_ok=True)
    pattern, num_documents = str(out / "train-%06d.tar"), 0
    with ShardWriter(pattern, maxcount=DOCS_PER_SHARD, verbose=0) as writer:
        for path in inputs:
            for article in READERS[reader](path):
                writer.write(as_sample(article, tokenizer))
                num_documents += 1
    return num_documents


def as_sample(article: Article, tokenizer: Any) -> dict[str, Any]:
    """The three WebDataset members of a document. A mention covers all tokens it overlaps."""
    encoding = tokenizer.encode(article.text, add_special_tokens=False)
    starts = [start for start, _ in encoding.offsets]
    ends = [end for _, end in encoding.offsets]
    rows, identifiers = [], []
    for start, end, kind, identifier in article.mentions:
        first, last = bisect_right(ends, start), bisect_left(starts, end)
        if first < last:
            rows.append((first, last, TYPES[kind]))
            identifiers.append(identifier)
    return {
        "__key__": article.doc_id,
        "tokens.npy": np.array(encoding.ids, dtype=np.uint16),
        "mentions.npy": np.array(rows, dtype=np.uint32).reshape(-1, 3),
        "meta.json": json.dumps({"id": article.doc_id, "identifiers": identifiers}).encode(),
    }


def load_tokenizer(folder: str | Path) -> Any:
    """Load the fast tokenizer itself: a seventh faster than `tokenizer(text)`."""
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True).backend_tokenizer


def _members(path: str) -> Iterator[IO[bytes]]:
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                yield stream
