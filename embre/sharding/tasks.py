"""The two tasks of the workers of a sharding run: encode a part, write shards.

Each writes its files, then a record. A repeated call writes the same files.
"""

import gc
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np

from embre.atomic_files import write_atomic
from embre.corpora import read_raw
from embre.corpora.assemble import check
from embre.corpora.pubtator_plain import read_plain
from embre.corpora.raw import CheckedDocument, Chunk
from embre.held_out import Fingerprint, HoldOutList, fingerprint
from embre.sharding.concept_counts import count_concepts, forms_of, write_forms
from embre.sharding.joining import join_pieces
from embre.sharding.parts import PartRecord, PartRows, index_of, to_table, write_part
from embre.sharding.work_folder import ShardRecord, WorkFolder
from embre.shards.encode import encode_documents
from embre.shards.mention_columns import MentionColumns
from embre.shards.shard_set import pack_block, write_shard
from embre.shards.statistics import statistics_of
from embre.tally import Tally
from embre.tokenization.cached import CachedTokenizer
from embre.tokenization.tokenizer import load_tokenizer


class Progress(NamedTuple):
    """Progress of one step. `stored_bytes` are counted as on disk, `bytes_read` unpacked."""

    documents_read: int = 0
    bytes_read: int = 0
    dropped_or_repaired: int = 0
    stored_bytes: int = 0
    stored_bytes_in_all: int = 0
    documents_chosen: int = 0
    documents_written: int = 0


class TaskSettings(msgspec.Struct, frozen=True):
    """Settings of all tasks of a run; kept in the work folder."""

    tokenizer: str
    held: list[tuple[list[str], list[int]]]
    validation_share: float
    block_documents: int


@lru_cache(maxsize=2)
def _tools(work: WorkFolder, run: str) -> tuple[TaskSettings, list[HoldOutList], CachedTokenizer]:
    settings = msgspec.json.decode(work.task_settings.read_bytes(), type=TaskSettings)
    held = [HoldOutList("", set(ids), set(prints)) for ids, prints in settings.held]
    return settings, held, CachedTokenizer(load_tokenizer(settings.tokenizer))


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Disable the garbage collector, which takes half of the time with millions of tuples."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_no_garbage()
def encode_part(work: WorkFolder, run: str, name: str, chunks: Sequence[Chunk]) -> Progress:
    """Read, check and encode some megabytes of input into one part.

    `run` identifies settings and tokenizer, which a worker loads once per run.
    """
    settings, held, tokenizer = _tools(work, run)
    tally = Tally()
    left_out: list[tuple[int, int, int]] = []
    forms, tables = [], []
    num_read = 0
    for chunk in chunks:
        for docs, columns in _read(chunk, tally):
            docs, columns, prints = _leave_out(docs, columns, held, left_out)
            encoded = encode_documents(docs, tokenizer, tally, columns)
            forms.append(forms_of(columns))
            index = index_of(docs, prints, encoded, settings.validation_share)
            tables.append(to_table(encoded, index, tokenizer.vocabulary))
            num_read += len(docs)
    num_read += len(left_out)
    num_documents = sum(table.num_rows for table in tables)
    if num_documents:
        write_part(work.part(name), tables)
        write_forms(work.forms(name), forms)
    record = PartRecord(
        documents_read=num_read,
        bytes_read=sum(len(chunk.data) for chunk in chunks),
        documents=num_documents,
        dropped=dict(tally.counts),
        examples=tally.examples,
        held=left_out,
    )
    write_atomic(work.part_record(name), msgspec.json.encode(record))
    return Progress(num_read, record.bytes_read, dropped_or_repaired=tally.counts.total())


def _read(chunk: Chunk, tally: Tally) -> Iterator[tuple[list[CheckedDocument], MentionColumns]]:
    """Yield the documents of a chunk with their mentions as columns; plain ones are read fast."""
    rest = [chunk]
    if chunk.format == "pubtator":
        plain, rest = read_plain(chunk)
        if plain.docs:
            yield plain.docs, MentionColumns.of_plain(plain)
    # Pieces of one article are consecutive, so each stretch of the file is joined separately. Only
    # PubTator text has pieces; elsewhere a repeated id is another version.
    raws = (read_raw(part, tally, with_relations=False) for part in rest)
    checked = ((check(raw, tally) for raw in part) for part in raws)
    if chunk.format == "pubtator":
        checked = (join_pieces(part, tally) for part in checked)
    if docs := [doc for part in checked for doc in part]:
        yield docs, MentionColumns.of(docs)


def _leave_out(
    docs: list[CheckedDocument],
    columns: MentionColumns,
    held: list[HoldOutList],
    left_out: list[tuple[int, int, int]],
) -> tuple[list[CheckedDocument], MentionColumns, list[Fingerprint]]:
    """Return the documents on no hold-out list with their fingerprints.

    For each document on a list, (list, text, title) is appended to `left_out`.
    """
    prints = [fingerprint(doc) for doc in docs]
    stays = np.ones(len(docs), dtype=bool)
    for number, (doc, found) in enumerate(zip(docs, prints, strict=True)):
        lists = (which for which, one in enumerate(held) if one.has(doc, found))
        if (which := next(lists, None)) is not None:
            left_out.append((which, found.text, found.title))
            stays[number] = False
    if stays.all():
        return docs, columns, prints
    kept = np.flatnonzero(stays).tolist()
    return [docs[n] for n in kept], columns.only(stays), [prints[n] for n in kept]


class ShardTask(NamedTuple):
    """A shard to write. `parts` are indices into the run's list of parts, `rows` are rows there."""

    name: str
    split: str
    parts: np.ndarray
    rows: np.ndarray


def write_shards(
    work: WorkFolder, run: str, part_names: Sequence[str], tasks: Sequence[ShardTask]
) -> Progress:
    """Write shards whose documents are close to each other in the parts."""
    settings, _, tokenizer = _tools(work, run)
    paths = [work.part(name) for name in part_names]
    parts = np.concatenate([task.parts for task in tasks])
    rows = np.concatenate([task.rows for task in tasks])
    found = PartRows.read(paths, parts, rows)
    begin = 0
    for task in tasks:
        num_documents = len(task.rows)
        encoded = found.take(begin, begin + num_documents)
        begin += num_documents
        cuts = [*range(0, num_documents, settings.block_documents), num_documents]
        blocks = [
            pack_block(encoded, first, last, tokenizer.vocabulary)
            for first, last in zip(cuts, cuts[1:], strict=False)
        ]
        entry = write_shard(work.out / f"{task.name}.tar", task.split, blocks)
        digest = hashlib.sha256()
        for block in blocks:
            digest.update("\n".join(block.doc_ids).encode(errors="surrogatepass"))
            digest.update(block.tokens.astype("<u4").tobytes())
        mentions = np.concatenate([block.mentions for block in blocks])
        write_atomic(work.counts(task.name), count_concepts(mentions).tobytes())
        record = ShardRecord(entry, digest.hexdigest(), statistics_of(blocks))
        write_atomic(work.shard_record(task.name), msgspec.json.encode(record))
    return Progress(documents_written=begin)
