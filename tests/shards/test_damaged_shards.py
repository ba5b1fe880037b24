"""Whatever happened to a shard's bytes, it is refused by name and says what to do about it.

Plain WebDataset reads most of it without a word: the last test says what it makes of each damage.
"""

import io
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
import yaml

from embre.sharding.shard import ShardSettings
from embre.shards.check import check_shards
from embre.shards.shard_set import DamagedShard, ShardSet
from tests.shard_sets import write_shards
from tests.tools.test_inspect_shards import believe, flat, inspect

ROOT = Path(__file__).parents[2]
SHARD = "train-000000.tar"
NUM_BLOCKS = 4
Damage = Callable[[bytes, tarfile.TarInfo, tarfile.TarInfo], bytes]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def zeroed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes(512) + data[at + 512 :]


# Given the first file of a block in the middle (`docs.npy`), and the one behind it.
CUTS: dict[str, Damage] = {
    "cut between two samples": lambda data, first, second: data[: first.offset],
    "cut between two files of a sample": lambda data, first, second: data[: second.offset],
    "cut in a header": lambda data, first, second: data[: first.offset + 100],
    "cut in a payload": lambda data, first, second: data[: first.offset_data + first.size // 2],
    "cut to nothing": lambda data, first, second: b"",
}
FLIPS: dict[str, Damage] = {
    "a flipped byte of a header": lambda data, first, second: flipped(data, first.offset + 3),
    "a flipped byte of a payload": lambda data, first, second: flipped(
        data, first.offset_data + first.size - 1
    ),
    "a header of zeros": lambda data, first, second: zeroed(data, first.offset),
    "a block of zeros in a payload": lambda data, first, second: zeroed(data, first.offset_data),
    "a byte more": lambda data, first, second: data + b"\0",
}
ALL = CUTS | FLIPS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Two shards, the first of four blocks."""
    settings = ShardSettings(2, 2 * NUM_BLOCKS, validation_share=0.0, vocabulary=600)
    return write_shards(tmp_path_factory.mktemp("set"), 12, settings)


@pytest.fixture
def damaged(whole: ShardSet, tmp_path: Path, request: pytest.FixtureRequest) -> ShardSet:
    """A copy of the shard set whose first shard has the damage that the test's parameter names."""
    for file in Path(whole.url).iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with tarfile.open(tmp_path / SHARD) as archive:
        files = archive.getmembers()
    middle = len(files) // 2
    assert files[middle].name.endswith("docs.npy")
    data = ALL[request.param]((tmp_path / SHARD).read_bytes(), files[middle], files[middle + 1])
    (tmp_path / SHARD).write_bytes(data)
    return ShardSet.open(tmp_path)


@pytest.mark.parametrize("damaged", ALL, indirect=True)
def test_a_damaged_shard_is_refused_by_name_with_a_remedy(damaged: ShardSet) -> None:
    first, second = damaged.manifest.shards
    with pytest.raises(ValueError, match=rf"{SHARD}: .* damaged; copy or write it again"):
        damaged.load(first)
    assert damaged.load(second)


@pytest.mark.parametrize("damaged", ALL, indirect=True)
def test_verifying_names_the_damaged_shard_and_no_other(damaged: ShardSet) -> None:
    found = inspect(damaged.url, "--verify")
    assert found.exit_code == 1
    assert f"{SHARD}: " in found.output and "train-000001.tar" not in found.output
    assert "damaged; copy or write it again" in flat(found.output)


@pytest.mark.parametrize("damaged", [*CUTS, "a header of zeros"], indirect=True)
def test_what_is_missing_is_found_even_where_the_manifest_was_made_of_the_damage(
    damaged: ShardSet,
) -> None:
    believe(Path(damaged.url), SHARD)
    problems = check_shards(ShardSet.open(damaged.url))
    assert list(problems) == [SHARD]


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["cut in a payload"], indirect=True)
def test_a_run_whose_loader_process_meets_the_damage_ends_and_names_it(
    whole: ShardSet, damaged: ShardSet, tmp_path: Path
) -> None:
    shape = {"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 16}
    run = {
        "name": "small",
        "storage": str(tmp_path / "runs"),
        "encoder": {"path": f"{whole.url}/tokenizer", "new": shape},
        "data": {"shards": damaged.url, "streams": 1, "loader_workers": 1},
        "train": {"steps": 9},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    command = [sys.executable, "-m", "embre", "pretrain", str(tmp_path / "run.yaml")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1, ended.stderr
    (said,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert SHARD in said and "copy or write it again" in said and "Traceback" not in said


class Evil:
    """What makes a folder where it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.canary),)


def of_objects(evil: Evil) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([evil], dtype=object))
    return buffer.getvalue()


def zipped(evil: Evil) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, np.array([evil], dtype=object))
    return buffer.getvalue()


HARMFUL: dict[str, tuple[str, Callable[[Evil], bytes]]] = {
    "an array of objects": ("tokens.npy", of_objects),
    "objects in a zip of arrays": ("mentions.npy", zipped),
    "a pickle for an array": ("docs.npy", pickle.dumps),
    "a further pickle": ("tokens.pkl", pickle.dumps),
    "a pickle by its other name": ("pickle", pickle.dumps),
    "weights": ("weights.pth", pickle.dumps),
    "a pickle as WebDataset names it": ("pyd", pickle.dumps),
}


@pytest.mark.parametrize(("member", "make"), HARMFUL.values(), ids=HARMFUL)
def test_a_member_that_would_run_code_is_refused_behind_a_right_digest(
    whole: ShardSet, tmp_path: Path, member: str, make: Callable[[Evil], bytes]
) -> None:
    for file in Path(whole.url).iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    canary = tmp_path / "canary"
    samples = list(webdataset.WebDataset(str(tmp_path / SHARD), shardshuffle=False))
    samples[1][member] = make(Evil(canary))
    with webdataset.TarWriter(str(tmp_path / SHARD), encoder=False) as writer:
        for sample in samples:
            del sample["__url__"], sample["__local_path__"]
            writer.write(sample)
    believe(tmp_path, SHARD)
    shard_set = ShardSet.open(tmp_path)
    first, second = shard_set.manifest.shards
    with pytest.raises(ValueError, match=rf"{SHARD}: .*{member}") as refused:
        shard_set.load(first)
    assert not isinstance(refused.value, DamagedShard), "a run would set it aside and go on"
    assert shard_set.load(second)
    found = inspect(shard_set.url, "--verify")
    assert found.exit_code == 1 and f"{SHARD}: " in found.output and member in found.output
    assert not canary.exists()


def test_what_is_harmful_here_does_its_harm_where_it_is_unpickled(tmp_path: Path) -> None:
    np.load(io.BytesIO(of_objects(Evil(tmp_path / "canary"))), allow_pickle=True)
    assert (tmp_path / "canary").exists()


SILENT = {
    "cut between two samples": NUM_BLOCKS // 2,
    "cut between two files of a sample": NUM_BLOCKS // 2 + 1,
    "cut in a header": NUM_BLOCKS // 2,
    "a flipped byte of a header": NUM_BLOCKS // 2,
    "a flipped byte of a payload": NUM_BLOCKS,
    "a header of zeros": NUM_BLOCKS // 2,
}


@pytest.mark.parametrize(("damaged", "num_samples"), SILENT.items(), indirect=["damaged"])
def test_plain_webdataset_reads_it_without_a_word(damaged: ShardSet, num_samples: int) -> None:
    samples = list(webdataset.WebDataset(f"{damaged.url}/{SHARD}", shardshuffle=False))
    assert len(samples) == num_samples
