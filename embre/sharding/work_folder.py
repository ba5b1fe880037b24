"""The folder with the parts and records of an unfinished sharding run, and its lock."""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import msgspec

from embre.atomic_files import clear_leftovers, write_atomic
from embre.refused import Refused
from embre.sharding.parts import PartRecord
from embre.shards.shard_set import ShardEntry
from embre.shards.statistics import ShardStatistics

WORK = ".unfinished"
SHARD_NAMES = ("train-*.tar", "validation-*.tar")
FIELD_NAMES = {"hold_out": "hold-out lists"}  # of a plan, in messages


class Plan(msgspec.Struct, frozen=True):
    """The request for a shard set; `inputs` are names and sizes in bytes."""

    inputs: list[tuple[str, int]]
    tokenizer: str
    hold_out: list[tuple[str, str]]
    settings: dict[str, int | str]

    @property
    def digest(self) -> str:
        """SHA-256 of the plan, which the manifest keeps."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class Begun(msgspec.Struct, frozen=True):
    """The state of an unfinished run; its parts have `part_bytes` of plain input each."""

    plan: Plan
    keys: list[str]
    part_bytes: int


class InputRecord(msgspec.Struct):
    """An input that was read to its end; `dropped` counts losses outside its documents."""

    parts: int
    source: dict[str, int | str]
    dropped: dict[str, int]
    examples: dict[str, list[str]]


class ShardRecord(msgspec.Struct):
    """A written shard. `token_digest` is over ids and tokens of its documents."""

    entry: ShardEntry
    token_digest: str
    statistics: ShardStatistics


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """Paths of the parts and records of a run into `out`."""

    out: Path

    @property
    def folder(self) -> Path:
        return self.out / WORK

    @staticmethod
    def part_name(key: str, n: int) -> str:
        """Name of the n-th part of an input."""
        return f"{key}-{n:06d}"

    def part(self, name: str) -> Path:
        return self.folder / f"part-{name}.arrow"

    def forms(self, name: str) -> Path:
        return self.folder / f"part-{name}.forms"

    def part_record(self, name: str) -> Path:
        return self.folder / f"part-{name}.json"

    def input_record(self, key: str) -> Path:
        return self.folder / f"input-{key}.json"

    def shard_record(self, name: str) -> Path:
        return self.folder / f"shard-{name}.json"

    def counts(self, name: str) -> Path:
        return self.folder / f"shard-{name}.counts"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer"

    @property
    def task_settings(self) -> Path:
        return self.folder / "tasks.json"

    def is_done(self, key: str) -> bool:
        """Whether an input was read to its end and all of its parts are there."""
        return self.input_record(key).exists() and all(
            self.part_record(name).exists() for name in self.part_names(key)
        )

    def read_input_record(self, key: str) -> InputRecord:
        return msgspec.json.decode(self.input_record(key).read_bytes(), type=InputRecord)

    def part_names(self, key: str) -> list[str]:
        """Names of the parts of an input that was read to its end, in order."""
        return [self.part_name(key, n) for n in range(self.read_input_record(key).parts)]

    def read_shard_records(self) -> list[ShardRecord]:
        """Records of all written shards, in order, training shards first."""
        return [
            msgspec.json.decode(path.read_bytes(), type=ShardRecord)
            for path in sorted(self.folder.glob("shard-*.json"))
        ]

    def read_part_record(self, name: str) -> PartRecord:
        return msgspec.json.decode(self.part_record(name).read_bytes(), type=PartRecord)

    def begin(self, plan: Plan, keys: list[str], part_bytes: int) -> int:
        """Start a run or resume the unfinished one; return the size of its parts in bytes.

        A resumed run may have other inputs: the records and parts of inputs are kept, and what
        depends on all inputs (a learnt tokenizer, shards) is removed. Raises Refused if its plan
        differs otherwise, FileExistsError if there are shards of unknown origin.
        """
        path = self.folder / "begun.json"
        begun = Begun(plan, keys, part_bytes)
        strange = [] if path.exists() else [f for name in SHARD_NAMES for f in self.out.glob(name)]
        if strange:
            raise FileExistsError(
                f"{strange[0]}: this shard was not written by a run of this folder; remove it, or "
                "choose another folder"
            )
        clear_leftovers(self.out)
        if not path.exists():
            write_atomic(path, msgspec.json.encode(begun))
            return part_bytes
        before = msgspec.json.decode(path.read_bytes(), type=Begun)
        different = [
            FIELD_NAMES.get(name, name)
            for name in ("tokenizer", "hold_out", "settings")
            if getattr(before.plan, name) != getattr(plan, name)
        ]
        if different:
            raise Refused(
                f"{self.folder}: an unfinished run had other options ({', '.join(different)}); "
                "repeat them to finish it, or remove that folder to start again"
            )
        if before.keys != keys:
            # Without keys until everything is removed: if killed here, the next run does the rest.
            write_atomic(path, msgspec.json.encode(Begun(plan, [], before.part_bytes)))
            self._remove_what_needs_all_inputs()
            # Parts cut at other places must not be mixed within an input.
            begun = Begun(plan, keys, before.part_bytes)
            write_atomic(path, msgspec.json.encode(begun))
        return before.part_bytes

    def _remove_what_needs_all_inputs(self) -> None:
        shutil.rmtree(self.tokenizer, ignore_errors=True)
        # Records first: a record without its shard would be taken for a written shard.
        for pattern in ("shard-*.json", "shard-*.counts"):
            _remove_files(self.folder, pattern)
        for pattern in SHARD_NAMES:
            _remove_files(self.out, pattern)

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def _remove_files(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink()


@contextmanager
def only_writer(work: WorkFolder) -> Iterator[None]:
    """Lock the folder. Raises FileExistsError naming the process that holds the lock.

    The lock of a killed run is released by the system.
    """
    try:
        work.folder.mkdir(parents=True, exist_ok=True)
    except NotADirectoryError as error:
        raise NotADirectoryError(
            f"{work.out}: --out is a file or within a file; choose a folder"
        ) from error
    owner, lock = work.folder / "owner.json", filelock.FileLock(work.folder / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        who = json.loads(owner.read_text()) if owner.exists() else {}
        raise FileExistsError(
            f"{work.out}: another run is writing here (process {who.get('process', '?')} on "
            f"{who.get('host', '?')}); wait for it or choose another folder"
        ) from error
    with lock:
        owner.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        yield
