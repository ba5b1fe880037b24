"""The folder in which an unfinished sharding run keeps what is done, and one run at a time."""

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


WORDS = {"hold_out": "what is held out", "modified": "times of the inputs"}  # of a plan's fields


class Plan(msgspec.Struct, frozen=True):
    """What a run was asked to do. Another run goes on with its work only for an equal plan."""

    inputs: list[tuple[str, int]]
    tokenizer: str
    hold_out: list[tuple[str, str]]
    settings: dict[str, int | str]
    modified: list[float]

    @property
    def digest(self) -> str:
        """What the manifest keeps of it; a copy of the inputs has other times."""
        same = msgspec.structs.replace(self, modified=[])
        return hashlib.sha256(msgspec.json.encode(same)).hexdigest()


class InputRecord(msgspec.Struct):
    """An input that was read to its end; `dropped` is what was lost outside of its documents."""

    parts: int
    source: dict[str, int | str]
    dropped: dict[str, int]
    examples: dict[str, list[str]]


class ShardRecord(msgspec.Struct):
    """A shard that is written. `token_digest` is over ids and tokens of its documents."""

    entry: ShardEntry
    token_digest: str
    statistics: ShardStatistics


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """Where the parts and records of a run into `out` are."""

    out: Path

    @property
    def folder(self) -> Path:
        return self.out / WORK

    @staticmethod
    def part_name(number: int, n: int) -> str:
        """The n-th part of an input; in the order of the inputs when sorted."""
        return f"{number:04d}-{n:06d}"

    def part(self, name: str) -> Path:
        return self.folder / f"part-{name}.arrow"

    def forms(self, name: str) -> Path:
        return self.folder / f"part-{name}.forms"

    def part_record(self, name: str) -> Path:
        return self.folder / f"part-{name}.json"

    def input_record(self, number: int) -> Path:
        return self.folder / f"input-{number:04d}.json"

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

    def is_done(self, number: int) -> bool:
        """Whether an input was read to its end and all of its parts are there."""
        if not self.input_record(number).exists():
            return False
        num_parts = self.read_input_record(number).parts
        return all(self.part_record(self.part_name(number, n)).exists() for n in range(num_parts))

    def read_input_record(self, number: int) -> InputRecord:
        return msgspec.json.decode(self.input_record(number).read_bytes(), type=InputRecord)

    def read_shard_records(self) -> list[ShardRecord]:
        """Every shard that is written: those for training first, in order."""
        return [
            msgspec.json.decode(path.read_bytes(), type=ShardRecord)
            for path in sorted(self.folder.glob("shard-*.json"))
        ]

    def part_names(self) -> list[str]:
        """The parts that are complete, in the order of the inputs."""
        return sorted(p.stem.removeprefix("part-") for p in self.folder.glob("part-*.json"))

    def read_part_record(self, name: str) -> PartRecord:
        return msgspec.json.decode(self.part_record(name).read_bytes(), type=PartRecord)

    def begin(self, plan: Plan) -> None:
        """Go on with the work that is there, or clear what another run left and start.

        Raises Refused where the work that is there had another plan.
        """
        path = self.folder / "plan.json"
        strange = [] if path.exists() else [f for name in SHARD_NAMES for f in self.out.glob(name)]
        if strange:
            raise FileExistsError(
                f"{strange[0]}: a shard that no run of this folder wrote; remove what is there or "
                "choose another folder"
            )
        clear_leftovers(self.out)
        if not path.exists():
            write_atomic(path, msgspec.json.encode(plan))
            return
        before = msgspec.json.decode(path.read_bytes(), type=Plan)
        different = [
            name for name in plan.__struct_fields__ if getattr(before, name) != getattr(plan, name)
        ]
        if different:
            named = ", ".join(WORDS.get(name, name) for name in different)
            raise Refused(
                f"{self.folder}: an unfinished run was told otherwise ({named}); give the same "
                "command again to finish it, or remove that folder to begin anew"
            )

    def remove(self) -> None:
        shutil.rmtree(self.folder)


@contextmanager
def only_writer(work: WorkFolder) -> Iterator[None]:
    """Keep other runs out; they are told who is there. A run that was killed holds nothing."""
    try:
        work.folder.mkdir(parents=True, exist_ok=True)
    except NotADirectoryError as error:
        raise NotADirectoryError(
            f"{work.out}: --out is a file, or lies below one; choose a folder"
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
