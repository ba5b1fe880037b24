"""PubTator or BioC files → a shard set: the recipe.

    inputs ─parts_to_encode─▶ chunks ─encode_part─▶ parts     of some megabytes each, by workers
    index of all parts ─choose_rows─▶ the chosen documents, in order
    parts ─write_shards─▶ shards ─_finish─▶ concept table, manifest

Every step leaves a record, so a killed run resumes where it was. The place of a document is a hash
of its id: the same documents give the same bytes, whatever the order of the inputs and the number
of workers.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from embre.atomic_files import fsync_tree, write_atomic
from embre.corpora.sources import locate, stored_sha256
from embre.held_out import HoldOutList, read_lists
from embre.refused import Refused
from embre.sharding.concept_counts import COUNT, concept_table
from embre.sharding.damage import refuse_damaged, sources_of
from embre.sharding.dataset_card import write_card
from embre.sharding.inputs import Input, check_inputs, find_inputs, place_by_name
from embre.sharding.order import Rows, choose_rows, cut_into_shards
from embre.sharding.reading import part_size, parts_to_encode
from embre.sharding.tasks import Progress, ShardTask, TaskSettings, encode_part, write_shards
from embre.sharding.tokenizer import keep_tokenizer, nothing_to_shard
from embre.sharding.work_folder import Plan, ShardRecord, WorkFolder, only_writer
from embre.shards.entities import CONCEPTS, write_concepts
from embre.shards.shard_set import FORMAT, MANIFEST, Manifest, ShardSet, write_manifest
from embre.shards.statistics import add_up
from embre.tally import REPAIRED, Tally
from embre.tokenization.tokenizer import load_tokenizer
from embre.workers import OneProcess, Workers

TOKENIZER = "tokenizer"
DROPPED = "dropped.json"
TOKENS_AT_ONCE = 64 << 20  # in the shards of one call of a worker


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """Sizes of a shard set. A hash of the id decides which documents are for validation."""

    block_documents: int = 256
    shard_documents: int = 16384
    validation_share: float = 0.01
    vocabulary: int = 8192


def shard(
    inputs: list[str],
    out: Path,
    tokenizer_folder: Path | None,
    hold_out: list[str],
    settings: ShardSettings,
    progress: Callable[[Progress], None] = lambda step: None,
    workers: Workers | None = None,
    accept_damaged: bool = False,
) -> tuple[Manifest, Tally]:
    """Write a shard set of the inputs (files, folders, archives, patterns, URLs) into `out`.

    Without `tokenizer_folder` a tokenizer is learnt from the documents; either is copied to
    `out/tokenizer`. Documents of the `hold_out` lists (shipped lists, files of ids, corpora) are
    left out and counted. The same call resumes a stopped run; the inputs may then differ, and only
    new or changed ones are read. If the set is complete, nothing is changed. Returns the manifest
    and what was dropped or repaired.

    Raises FileExistsError if `out` has another shard set or is being written; Refused if an
    unfinished run had other options, an input has no known format or differs from that of the
    complete set, or there is no document to write; DamagedInputs, unless accepted, if an input
    cannot be read to its end (the parts are kept); OSError if `out` is a file or the disk is full.
    """
    out = out.absolute()
    found = find_inputs(inputs)
    check_inputs(found, out)
    held = read_lists(hold_out)
    plan = _plan(found, tokenizer_folder, held, settings)
    work = WorkFolder(out)
    with only_writer(work):
        if (out / MANIFEST).exists():
            work.remove()
            return _complete(out, plan, found), Tally()
        part_bytes = work.begin(plan, [one.key for one in found], part_size(found))
        run, found = _prepare(work, plan, found, tokenizer_folder, held, settings)
        job = _Job(work, run, plan, settings, held, found, progress, workers or OneProcess())
        names = _encode(job, part_bytes, accept_damaged)
        manifest, tally = _write(job, names, inputs)
        work.remove()
    return manifest, tally


class _Job(NamedTuple):
    """A run whose tokenizer is known; the keys of `found` depend on it."""

    work: WorkFolder
    run: str
    plan: Plan
    settings: ShardSettings
    held: list[HoldOutList]
    found: list[Input]
    progress: Callable[[Progress], None]
    workers: Workers


def _prepare(
    work: WorkFolder,
    plan: Plan,
    found: list[Input],
    tokenizer_folder: Path | None,
    held: list[HoldOutList],
    settings: ShardSettings,
) -> tuple[str, list[Input]]:
    """Write the tokenizer and the settings of the tasks; return the id of the run, and the inputs
    with keys that also name the tokenizer."""
    if not work.tokenizer.exists():
        sources = [one.source for one in found]
        keep_tokenizer(work.tokenizer, tokenizer_folder, sources, held, settings.vocabulary)
    task_settings = TaskSettings(
        tokenizer=str(work.tokenizer),
        held=[(sorted(one.ids), sorted(one.prints)) for one in held],
        validation_share=settings.validation_share,
        block_documents=settings.block_documents,
    )
    write_atomic(work.task_settings, msgspec.json.encode(task_settings))
    fingerprint = load_tokenizer(work.tokenizer).fingerprint
    found = [one._replace(key=_hash(one.key, fingerprint)[:16]) for one in found]
    return _hash(plan.digest, fingerprint), found


def _encode(job: _Job, part_bytes: int, accept_damaged: bool) -> list[str]:
    """Encode the inputs into parts; return the names of all parts, in order."""
    to_do = parts_to_encode(job.found, job.work, job.run, part_bytes, job.progress)
    for step in job.workers.run(encode_part, to_do):
        job.progress(step)
    if not accept_damaged:
        refuse_damaged(job.work, job.found)
    return [name for one in job.found for name in job.work.part_names(one.key)]


def _write(job: _Job, names: list[str], inputs: list[str]) -> tuple[Manifest, Tally]:
    """Choose the documents of the parts and write them as a shard set.

    Raises Refused, naming `inputs`, if none is left.
    """
    tally = _add_up_tallies(job.work, job.found, names)
    order, num_held = choose_rows(job.work, names, job.held, tally)
    num_chosen = sum(len(rows.parts) for rows in order.values())
    if not num_chosen:
        raise Refused(nothing_to_shard(inputs, num_held, tally))
    job.progress(Progress(documents_chosen=num_chosen))
    to_do = _shards_to_do(order, names, job.settings, job.work, job.run)
    for step in job.workers.run(write_shards, to_do):
        job.progress(step)
    records = job.work.read_shard_records()
    if sum(record.entry.documents for record in records) != num_chosen:
        raise ChildProcessError(
            f"{job.work.out}: not every shard was written; run the same command again"
        )
    return _finish(job, names, records, num_held, tally), tally


def _plan(
    found: list[Input],
    tokenizer_folder: Path | None,
    held: list[HoldOutList],
    settings: ShardSettings,
) -> Plan:
    return Plan(
        inputs=[(source.name, source.bytes) for source in found],
        tokenizer=load_tokenizer(tokenizer_folder).fingerprint if tokenizer_folder else "",
        hold_out=[(one.name, one.digest) for one in held],
        settings=asdict(settings) | {"validation_share": str(settings.validation_share)},
    )


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _shards_to_do(
    order: dict[str, Rows],
    names: list[str],
    settings: ShardSettings,
    work: WorkFolder,
    run: str,
) -> Iterator[tuple[WorkFolder, str, list[str], list[ShardTask]]]:
    """Yield the calls of `write_shards` that remain to be made, several shards each."""
    for split, rows in order.items():
        waiting: list[ShardTask] = []
        num_tokens = 0
        for name, first, last in cut_into_shards(
            split, len(rows.parts), settings.shard_documents, settings.block_documents
        ):
            is_done = work.shard_record(name).exists()
            # A call reads each part from its first to its last row: do not span finished shards.
            if waiting and (is_done or num_tokens >= TOKENS_AT_ONCE):
                yield work, run, names, waiting
                waiting, num_tokens = [], 0
            if not is_done:
                part = slice(first, last)
                waiting.append(ShardTask(name, split, rows.parts[part], rows.rows[part]))
                num_tokens += int(rows.tokens[part].sum())
        if waiting:
            yield work, run, names, waiting


def _add_up_tallies(work: WorkFolder, found: list[Input], names: list[str]) -> Tally:
    tally = Tally()
    for one in found:
        record = work.read_input_record(one.key)
        tally.add(record.dropped, record.examples)
    for name in names:
        record = work.read_part_record(name)
        tally.add(record.dropped, record.examples)
    return tally


def _finish(
    job: _Job,
    names: list[str],
    records: list[ShardRecord],
    num_held: dict[str, int],
    tally: Tally,
) -> Manifest:
    """Write the files that describe the whole set; the manifest last."""
    work = job.work
    tokenizer = load_tokenizer(work.tokenizer)
    parts = {name: work.read_part_record(name) for name in names}
    counts = (np.fromfile(work.counts(Path(record.entry.name).stem), COUNT) for record in records)
    concepts = concept_table([work.forms(name) for name in names if parts[name].documents], counts)
    shutil.copytree(work.tokenizer, work.out / TOKENIZER, dirs_exist_ok=True)
    digests = "\n".join(record.token_digest for record in records)
    manifest = Manifest(
        format=FORMAT,
        tokenizer=tokenizer.fingerprint,
        vocabulary=tokenizer.vocabulary,
        shards=[record.entry for record in records],
        token_digest=hashlib.sha256(digests.encode()).hexdigest(),
        concepts={
            "name": CONCEPTS,
            "sha256": write_concepts(work.out / CONCEPTS, concepts),
            "rows": concepts.num_rows,
        },
        settings=job.plan.settings,
        sources=sources_of(work, job.found),
        documents_read=sum(part.documents_read for part in parts.values()),
        dropped={r: n for r, n in sorted(tally.counts.items()) if not r.startswith(REPAIRED)},
        repaired={r: n for r, n in sorted(tally.counts.items()) if r.startswith(REPAIRED)},
        held_out=num_held,
        plan=job.plan.digest,
    )
    write_atomic(work.out / DROPPED, _places(tally, job.found))
    write_card(work.out, manifest, add_up(record.statistics for record in records))
    fsync_tree(work.out)
    write_manifest(work.out, manifest)
    return manifest


def _places(tally: Tally, found: list[Input]) -> bytes:
    """JSON of what was dropped or repaired: by reason, the count and the first places."""
    reasons = {
        reason: {
            "count": count,
            "first": [place_by_name(place, found) for place in tally.examples.get(reason, [])],
        }
        for reason, count in sorted(tally.counts.items())
    }
    return msgspec.json.format(msgspec.json.encode(reasons), indent=1)


def _complete(out: Path, plan: Plan, found: list[Input]) -> Manifest:
    """Return the manifest of a complete set. Inputs newer than the set are hashed and compared."""
    manifest = ShardSet.open(out).manifest
    if manifest.plan != plan.digest:
        raise FileExistsError(
            f"{out}: holds a complete shard set of other inputs or settings; remove the folder or "
            "choose another --out"
        )
    finished = (out / MANIFEST).stat().st_mtime
    for one, source in zip(found, manifest.sources, strict=True):
        if one.modified >= finished and stored_sha256(locate(one.source)) != source["sha256"]:
            raise Refused(
                f"{out}: holds a complete shard set of another {one.name!r}, which has changed "
                "since; choose another --out or remove the folder"
            )
    return manifest
