"""Killed anywhere, run again: a sharding run ends with the bytes of one that was never killed."""

import errno
import gzip
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from embre import atomic_files
from embre.corpora import write_pubtator
from embre.demo.corpus import make_corpus
from embre.launch.ray_workers import RayWorkers
from embre.sharding import damage
from embre.sharding import shard as recipe
from embre.sharding.damage import DamagedInputs
from embre.sharding.shard import TOKENIZER, ShardSettings, shard
from embre.sharding.tasks import encode_part
from embre.sharding.work_folder import WORK, WorkFolder, only_writer
from embre.shards.shard_set import MANIFEST
from embre.workers import OneProcess, Processes, Workers
from tests.bioc_json_files import write_bioc_json
from tests.sharding.test_shard import files_of

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ShardSettings(block_documents=4, shard_documents=16, vocabulary=600)


class Stopped(BaseException):
    """What stands in for a kill: nothing catches it."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two files with two documents in common."""
    folder = tmp_path_factory.mktemp("inputs")
    docs = make_corpus(60, seed=1)
    write_pubtator(folder / "a.PubTator", docs[:32])
    write_bioc_json(folder / "b.json", docs[30:])
    return [str(folder / "a.PubTator"), str(folder / "b.json")]


@pytest.fixture(scope="module")
def whole(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shard set of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    shard(inputs, out, None, [], SETTINGS)
    return out


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embre.sharding.reading.MIN_PART_BYTES", 1 << 13)


class FaultAt:
    """Raises an error at the n-th fault point of a name ('' for any), once."""

    def __init__(self, name: str, number: int, error: BaseException):
        self.name, self.number, self.error = name, number, error
        self.seen: list[str] = []

    def __call__(self, name: str) -> None:
        if name == self.name or not self.name:
            self.seen.append(name)
            if len(self.seen) == self.number:
                raise self.error


def test_a_run_that_is_stopped_at_any_write_ends_with_the_same_bytes(
    inputs: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run gets three writes further than the one before."""
    count = FaultAt("", 0, Stopped())
    monkeypatch.setattr(atomic_files, "fault_point", count)
    shard(inputs, tmp_path / "counted", None, [], SETTINGS)
    assert len(count.seen) > 60 and {*count.seen} == {"half_written", "written", "committed"}
    out = tmp_path / "out"
    for number in range(40):
        fault = FaultAt("", 10 + number % 3, Stopped())
        monkeypatch.setattr(atomic_files, "fault_point", fault)
        try:
            shard(inputs, out, None, [], SETTINGS)
        except Stopped:
            assert not (out / MANIFEST).exists() or fault.seen[-1] == "committed"
        else:
            break
    assert number > 5
    assert files_of(out) == files_of(whole)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["half_written", "written", "committed"])
def test_each_write_alone_may_be_the_one_that_is_stopped(
    inputs: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    for number in range(1, 100):
        out = tmp_path / f"out-{number}"
        monkeypatch.setattr(atomic_files, "fault_point", FaultAt(point, number, Stopped()))
        try:
            shard(inputs, out, None, [], SETTINGS)
            break
        except Stopped:
            shard(inputs, out, None, [], SETTINGS)
        assert files_of(out) == files_of(whole), f"stopped at write {number}"
    assert 20 < number < 60


def test_a_full_disk_stops_the_run_and_leaves_no_half_file(
    inputs: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for number in (1, 4, 6, 8):
        monkeypatch.setattr(atomic_files, "fault_point", FaultAt("half_written", number, no_space))
        with pytest.raises(OSError, match="No space left"):
            shard(inputs, tmp_path, None, [], SETTINGS)
        assert not (tmp_path / MANIFEST).exists()
        assert not list(tmp_path.rglob("*.partial"))
    monkeypatch.undo()
    shard(inputs, tmp_path, None, [], SETTINGS)
    assert files_of(tmp_path) == files_of(whole)


def test_all_of_a_set_is_on_the_disk_before_its_manifest(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest that outlives a power cut must not name files that do not."""
    flushed: list[str] = []

    def fsync(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}")).relative_to(tmp_path.resolve())
        flushed.append(re.sub(r"\.[0-9a-f]{8}\.partial$", "", str(path)))

    out = tmp_path / "out"
    monkeypatch.setattr(atomic_files.os, "fsync", fsync)
    shard(inputs, out, None, [], SETTINGS)
    before = flushed[: flushed.index(f"out/{MANIFEST}")]
    for path in out.rglob("*"):
        assert path.name == MANIFEST or str(path.relative_to(tmp_path)) in before
    assert "out" in before[-len(list(out.rglob("*"))) :], "and the list of their names"


def stop_after_a_part(inputs: list[str], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a run into `out` that was stopped in the middle."""

    def stop(name: str) -> None:
        if list((out / WORK).glob("part-*.json")):
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "fault_point", stop)
        with pytest.raises(Stopped):
            shard(inputs, out, None, [], SETTINGS)


def test_a_second_writer_is_refused(inputs: list[str], tmp_path: Path) -> None:
    with only_writer(WorkFolder(tmp_path)):
        with pytest.raises(FileExistsError, match=f"process {os.getpid()} on .*; wait for it"):
            shard(inputs, tmp_path, None, [], SETTINGS)
    assert not (tmp_path / MANIFEST).exists()
    shard(inputs, tmp_path, None, [], SETTINGS)


@pytest.mark.parametrize(
    ("change", "named"),
    [("settings", "settings"), ("hold_out", "hold-out lists")],
)
def test_an_unfinished_run_is_not_finished_with_other_options(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, named: str
) -> None:
    stop_after_a_part(inputs, tmp_path, monkeypatch)
    settings = ShardSettings(8, 16, vocabulary=600) if change == "settings" else SETTINGS
    held = [inputs[1]] if change == "hold_out" else []
    with pytest.raises(ValueError, match=rf"other options \({named}\); repeat them"):
        shard(inputs, tmp_path, None, held, settings)


@pytest.fixture
def four(tmp_path: Path) -> list[str]:
    """Four files, each with two documents of the one before and one that cannot be read."""
    docs = make_corpus(80, seed=2)
    paths = [tmp_path / f"{name}.PubTator" for name in "abcd"]
    for n, path in enumerate(paths):
        write_pubtator(path, docs[max(0, 20 * n - 2) : 20 * n + 20])
        path.write_text(path.read_text() + f"\n{n + 1}|t|a \0 in a title\n\n")
    return [str(path) for path in paths]


def stop_when(
    there: str, given: list[str], out: Path, tokenizer: Path | None, patch: pytest.MonkeyPatch
) -> None:
    """Run until the work folder has two files of a pattern, and stop there."""

    def stop(name: str) -> None:
        if len(list((out / WORK).glob(there))) >= 2:
            raise Stopped

    with patch.context() as context:
        context.setattr(atomic_files, "fault_point", stop)
        with pytest.raises(Stopped):
            shard(given, out, tokenizer, [], SETTINGS, accept_damaged=True)


def encoded_inputs(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the inputs of which a part is encoded from now on."""
    seen: set[str] = set()

    def encode(work, run, name, chunks):
        seen.update(Path(chunk.file).name for chunk in chunks)
        return encode_part(work, run, name, chunks)

    monkeypatch.setattr(recipe, "encode_part", encode)
    return seen


@pytest.mark.parametrize("learnt", [False, True])
@pytest.mark.parametrize("there", ["input-*.json", "shard-*.json"])
def test_an_unfinished_run_takes_other_inputs_and_ends_with_the_bytes_of_a_fresh_one(
    whole: Path,
    four: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    learnt: bool,
    there: str,
) -> None:
    """One input goes, one comes, one is fetched again, and their order is another."""
    a, b, c, d = four
    tokenizer, out, fresh = None if learnt else whole / TOKENIZER, tmp_path / "1", tmp_path / "2"
    stop_when(there, [a, c, b], out, tokenizer, monkeypatch)
    os.utime(c, (1, 1))
    seen = encoded_inputs(monkeypatch)
    shard([d, a, c], out, tokenizer, [], SETTINGS, accept_damaged=True)
    names = {"a.PubTator", "c.PubTator", "d.PubTator"}
    assert seen == (names if learnt else names - {"a.PubTator"})
    shard([d, a, c], fresh, tokenizer, [], SETTINGS, accept_damaged=True)
    assert files_of(out) == files_of(fresh)


def test_a_file_rewritten_within_the_same_size_is_read_again(
    four: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, fresh = tmp_path / "1", tmp_path / "2"
    stop_when("input-*.json", four, out, whole / TOKENIZER, monkeypatch)
    path = Path(four[0])
    path.write_bytes(path.read_bytes().replace(b"e", b"o"))
    os.utime(path, (1, 1))
    for folder in (out, fresh):
        shard(four, folder, whole / TOKENIZER, [], SETTINGS, accept_damaged=True)
    assert files_of(out) == files_of(fresh)


def test_one_input_given_twice_is_read_twice(
    four: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, fresh = tmp_path / "1", tmp_path / "2"
    stop_when("input-*.json", [four[0]] * 3, out, whole / TOKENIZER, monkeypatch)
    for folder in (out, fresh):
        given = [four[0]] * 2
        manifest, _ = shard(given, folder, whole / TOKENIZER, [], SETTINGS, accept_damaged=True)
    assert manifest.documents_read == 2 * 20
    assert files_of(out) == files_of(fresh)


def test_a_damaged_input_stops_the_run_and_alone_is_read_again(
    four: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, out, fresh = tmp_path / "b.gz", tmp_path / "1", tmp_path / "2"
    data = gzip.compress(Path(four[1]).read_bytes())
    packed.write_bytes(data[: len(data) // 2])
    given = [four[0], str(packed), four[2]]
    monkeypatch.setattr(damage, "MAX_UNREADABLE", 0.1)
    with pytest.raises(DamagedInputs, match=r"b\.gz.*file/broken_archive.*run the same command"):
        shard(given, out, whole / TOKENIZER, [], SETTINGS)
    assert (out / WORK).is_dir() and not [*out.glob("*.tar"), *out.glob(MANIFEST)]
    packed.write_bytes(data)
    seen = encoded_inputs(monkeypatch)
    shard(given, out, whole / TOKENIZER, [], SETTINGS)
    assert seen == {"b.gz"}
    shard(given, fresh, whole / TOKENIZER, [], SETTINGS)
    assert files_of(out) == files_of(fresh)


@pytest.mark.slow
def test_several_processes_write_the_bytes_of_one(
    inputs: list[str], whole: Path, tmp_path: Path
) -> None:
    with Processes(2, preload="embre.sharding.tasks") as workers:
        shard(inputs, tmp_path, None, [], SETTINGS, workers=workers)
    assert files_of(tmp_path) == files_of(whole)


@pytest.mark.slow
@pytest.mark.ray
def test_a_ray_cluster_writes_the_bytes_of_one_process(
    inputs: list[str], whole: Path, tmp_path: Path
) -> None:
    with RayWorkers("local") as workers:
        shard(inputs, tmp_path, None, [], SETTINGS, workers=workers)
    assert files_of(tmp_path) == files_of(whole)


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_nothing(
    inputs: list[str], tmp_path: Path, whole: Path
) -> None:
    """Real kills of the real command: the driver with all its processes."""
    random_ = random.Random(7)
    command = [sys.executable, "tools/shard_pubtator.py", *inputs, "--out", str(tmp_path / "out")]
    command += ["--no-shipped-hold-out", "--processes", "2", "--vocabulary", "600"]
    command += ["--block-documents", "4", "--shard-documents", "16"]
    out = tmp_path / "out"

    def done_so_far() -> set[str]:
        kinds = ("part-*.json", "input-*.json", "shard-*.json", "../*.tar")
        return {path.name for kind in kinds for path in (out / WORK).glob(kind)}

    for _ in range(2):
        before = done_so_far()
        run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
        while done_so_far() <= before and run.poll() is None:
            time.sleep(0.002)
        time.sleep(random_.random() * 0.05)
        assert run.poll() is None, "it ended before it was killed"
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        assert done_so_far() > before and not (out / MANIFEST).exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert files_of(tmp_path / "out") == files_of(whole)


RUN_FOR_EVER = """
import os, time
from embre.workers import Processes
if __name__ == "__main__":
    with Processes(2, preload="embre.workers") as workers:
        for number in workers.run(os.getpid, (() for _ in range(8))):
            print(number, flush=True)
        print("ready", flush=True)
        time.sleep(60)
"""


def alive(process: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # gone before or while it was read
        return False


@pytest.mark.slow
def test_workers_end_when_the_run_that_began_them_is_killed(tmp_path: Path) -> None:
    """Else they would write on beside those of the next run."""
    (tmp_path / "run.py").write_text(RUN_FOR_EVER)
    run = subprocess.Popen(
        [sys.executable, tmp_path / "run.py"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert run.stdout is not None
    workers = {int(line) for line in iter(run.stdout.readline, "ready\n")}
    assert workers and all(map(alive, workers))
    run.kill()
    run.wait()
    run.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def _stop_this_process(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _fail(number: int) -> int:
    if number == 3:
        raise ChildProcessError("number three")
    return number


@pytest.mark.slow
def test_a_worker_that_is_killed_is_an_error_with_a_remedy() -> None:
    with Processes(2, preload="embre.sharding.tasks") as workers:
        with pytest.raises(ChildProcessError, match="run the same command again"):
            list(workers.run(_stop_this_process, ((n,) for n in range(9))))


@pytest.fixture(params=["one", "processes"])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    if request.param == "one":
        yield OneProcess()
    else:
        with Processes(2, preload="embre.sharding.tasks") as several:
            yield several


@pytest.mark.slow
def test_workers_give_every_result_and_the_first_error(workers: Workers) -> None:
    assert sorted(workers.run(abs, ((-n,) for n in range(40)))) == list(range(40))
    with pytest.raises(ChildProcessError, match="number three"):
        list(workers.run(_fail, ((n,) for n in range(9))))


@pytest.mark.slow
def test_workers_take_only_a_few_calls_ahead(workers: Workers) -> None:
    taken = 0

    def calls() -> Iterator[tuple[int]]:
        nonlocal taken
        for n in range(1000):
            taken += 1
            yield (n,)

    next(iter(workers.run(abs, calls())))
    assert taken < 20
