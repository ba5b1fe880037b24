"""PubTator files → a shard set: read, hold out, tokenise, block, write. What tools/ runs.

files ─read_documents─▶ Document ─select─▶ ─encode─▶ Encoded ─pack_block─▶ shards, manifest
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from embre.corpora import read_documents
from embre.document import Concept, Document
from embre.encode import Encoded, concept_hash, encode_documents
from embre.entities import CONCEPTS, ConceptRow, write_concepts
from embre.job import folder_digest
from embre.learn_tokenizer import learn_tokenizer
from embre.shards import (
    FORMAT,
    MANIFEST,
    Manifest,
    ShardWriter,
    pack_block,
    write_manifest,
)
from embre.tally import Tally
from embre.tokenization import TextTokenizer, load_tokenizer

TOKENIZER = "tokenizer"
NOT_LETTERS = re.compile(r"[\W_]+")
DOCUMENTS_TO_LEARN_FROM = 20_000


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """How a shard set is cut. `validation_share` of documents, chosen by a hash of their id."""

    block_documents: int = 256
    shard_documents: int = 16384
    validation_share: float = 0.01
    vocabulary: int = 8192


@dataclass
class Ledger:
    """What a sharding run adds up on its way."""

    tally: Tally = field(default_factory=Tally)
    held_out: Counter[str] = field(default_factory=Counter)
    counts: Counter[Concept] = field(default_factory=Counter)
    forms: dict[Concept, Counter[str]] = field(default_factory=dict)
    token_digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)


def shard(
    inputs: list[str],
    out: Path,
    tokenizer_folder: Path | None,
    hold_out: list[str],
    settings: ShardSettings,
    progress: Callable[[int], None] = lambda documents: None,
) -> tuple[Manifest, Tally]:
    """Write a shard set of the inputs (files, folders, archives, URLs) into the folder `out`.

    Without a tokenizer one is learnt from the documents and kept in `out/tokenizer`. Documents of
    the `hold_out` lists (files of ids, or corpora) are left out and counted. `progress` is told of
    documents read. Raises FileExistsError where a shard set is already there, ValueError where
    the inputs hold no document.
    """
    _prepare(out)
    ledger = Ledger()
    held = {name: read_held(name) for name in hold_out}
    _add_texts(held, inputs)
    # A list that holds nothing out is shown as such: it may be the wrong list.
    ledger.held_out.update({Path(name).name: 0 for name in hold_out})
    docs = select(_read(inputs, ledger.tally, progress), held, ledger)
    if tokenizer_folder is None:
        first = list(islice(docs, DOCUMENTS_TO_LEARN_FROM))
        _refuse_empty(bool(first), inputs, ledger)
        tokenizer_folder = out / TOKENIZER
        learn_tokenizer(first, settings.vocabulary, tokenizer_folder)
        docs = chain(first, docs)
    tokenizer = load_tokenizer(tokenizer_folder)
    writers = _write(docs, out, tokenizer, settings, ledger)
    entries = [entry for writer in writers for entry in writer.entries]
    _refuse_empty(bool(entries), inputs, ledger)
    digest = write_concepts(out / CONCEPTS, concept_rows(ledger))
    manifest = Manifest(
        format=FORMAT,
        tokenizer=tokenizer.fingerprint,
        vocabulary=tokenizer.vocabulary,
        shards=entries,
        token_digest=ledger.token_digest.hexdigest(),
        concepts={"name": CONCEPTS, "sha256": digest, "rows": len(ledger.counts)},
        settings={
            "block_documents": settings.block_documents,
            "shard_documents": settings.shard_documents,
            "validation_share": str(settings.validation_share),
        },
        sources=[_source(name) for name in inputs],
        dropped=dict(ledger.tally.counts),
        held_out=dict(ledger.held_out),
    )
    write_manifest(out, manifest)
    return manifest, ledger.tally


@dataclass(frozen=True, slots=True)
class Held:
    """Documents to leave out: by id, and by text, because the same article has other ids too."""

    ids: set[str] = field(default_factory=set)
    texts: set[bytes] = field(default_factory=set)

    def add(self, doc: Document) -> None:
        """Hold out an article under whatever id."""
        self.ids.update({doc.doc_id, doc.pmid or doc.doc_id})
        self.texts.add(text_fingerprint(doc))

    def has(self, doc: Document) -> bool:
        return bool({doc.doc_id, doc.pmid} & self.ids) or text_fingerprint(doc) in self.texts


def read_held(source: str) -> Held:
    """The documents of a list of ids (one a line) or of any corpus that can be read."""
    held, path = Held(), Path(source)
    if path.is_file() and path.suffix in (".txt", ".ids", ".pmids"):
        lines = path.read_text().split("\n")
        if all("|" not in line and "\t" not in line for line in lines):
            held.ids.update(line.strip() for line in lines if line.strip())
            return held
    for doc in read_documents(source, Tally()):
        held.add(doc)
    return held


def _add_texts(held: dict[str, Held], inputs: list[str]) -> None:
    """Learn from the inputs the texts of ids that came without one; they may stand there twice,
    the second time under another id."""
    bare = [found for found in held.values() if found.ids and not found.texts]
    if bare:
        for doc in _read(inputs, Tally(), lambda documents: None):
            for found in bare:
                if {doc.doc_id, doc.pmid} & found.ids:
                    found.add(doc)


def text_fingerprint(doc: Document) -> bytes:
    """16 bytes of a text's letters and digits: spacing, case and punctuation do not count."""
    letters = NOT_LETTERS.sub("", doc.text.casefold())
    return hashlib.blake2b(letters.encode(), digest_size=16).digest()


def select(docs: Iterable[Document], held: dict[str, Held], ledger: Ledger) -> Iterator[Document]:
    """Documents that are neither held out nor have the text of one before."""
    seen: set[bytes] = set()
    for doc in docs:
        lists = [name for name, found in held.items() if found.has(doc)]
        if lists:
            ledger.held_out[Path(lists[0]).name] += 1
            continue
        identity = text_fingerprint(doc)
        if identity in seen:
            ledger.tally.drop("document/copy", doc.doc_id)
            continue
        seen.add(identity)
        yield doc


def concept_rows(ledger: Ledger) -> Iterator[ConceptRow]:
    """The concept table: hash, type, identifier, mentions, most frequent surface form."""
    for concept, count in ledger.counts.items():
        form = min(ledger.forms[concept].items(), key=lambda item: (-item[1], item[0]))[0]
        yield concept_hash(concept), concept.type, concept.identifier, count, form


def in_validation(doc_id: str, share: float) -> bool:
    """Whether a document belongs to the validation split; stable when a dump grows."""
    digest = hashlib.blake2b(f"split/{doc_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64


def _write(
    docs: Iterable[Document],
    out: Path,
    tokenizer: TextTokenizer,
    settings: ShardSettings,
    ledger: Ledger,
) -> list[ShardWriter]:
    blocks = max(1, settings.shard_documents // settings.block_documents)
    writers = {split: ShardWriter(out, split, blocks) for split in ("train", "validation")}
    waiting: dict[str, list[Encoded]] = {split: [] for split in writers}
    docs = iter(docs)
    while some := list(islice(docs, settings.block_documents)):
        for doc, encoded in zip(some, encode_documents(some, tokenizer, ledger.tally), strict=True):
            if encoded is None:
                continue
            _count_concepts(doc, encoded, ledger)
            ledger.token_digest.update(encoded.doc_id.encode() + encoded.tokens.tobytes())
            validation = in_validation(encoded.doc_id, settings.validation_share)
            split = "validation" if validation else "train"
            waiting[split].append(encoded)
            if len(waiting[split]) == settings.block_documents:
                writers[split].write(pack_block(waiting[split], tokenizer.vocabulary))
                waiting[split] = []
    for split, writer in writers.items():
        if waiting[split]:
            writer.write(pack_block(waiting[split], tokenizer.vocabulary))
        writer.flush()
    return list(writers.values())


def _count_concepts(doc: Document, encoded: Encoded, ledger: Ledger) -> None:
    """Count what is in the shard: a concept of a skipped reference list is not."""
    present = Counter(encoded.mentions["concept"].tolist())
    for concept, mentions in doc.mentions_by_concept().items():
        if count := present[concept_hash(concept)]:
            ledger.counts[concept] += count
            forms = ledger.forms.setdefault(concept, Counter())
            forms.update(mention.text for mention in mentions)


def _read(inputs: list[str], tally: Tally, progress: Callable[[int], None]) -> Iterator[Document]:
    for name in inputs:
        for doc in read_documents(name, tally):
            progress(1)
            yield doc


def _prepare(out: Path) -> None:
    if (out / MANIFEST).exists():
        raise FileExistsError(
            f"{out}: holds a complete shard set; remove the folder or choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    for pattern in ("train-*.tar", "validation-*.tar", "*.partial"):
        for leftover in out.glob(pattern):  # of a run that was killed
            leftover.unlink()


def _refuse_empty(found: bool, inputs: list[str], ledger: Ledger) -> None:
    if not found:
        lost = "; ".join(line.strip() for line in ledger.tally.lines()) or "nothing was dropped"
        held = sum(ledger.held_out.values())
        raise ValueError(
            f"{', '.join(inputs)}: no document to shard ({held} held out; {lost}); "
            "give PubTator, BioC-XML or BioC-JSON files, folders or archives"
        )


def _source(name: str) -> dict[str, str | int]:
    path = Path(name)
    if path.is_dir():
        return {"name": path.name, "sha256": folder_digest(path)}
    if not path.is_file():
        return {"name": path.name}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}
