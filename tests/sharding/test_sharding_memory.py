"""Memory does not grow with the input: peak RSS of processes that do nothing but shard."""

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import count, cycle
from pathlib import Path

import pytest

from embre.corpora import write_pubtator
from embre.demo.corpus import make_corpus
from tests.tiny import tiny_tokenizer

SHARD_IN_A_CHILD = """
import json, sys
from pathlib import Path
from embre.sharding import shard
shard.TOKENS_AT_ONCE = 1 << 20  # what a worker writes at once is a constant; here a small one
settings = shard.ShardSettings(64, 2048)
source, out, tokenizer = sys.argv[1:]
manifest, _ = shard.shard([source], Path(out), Path(tokenizer), [], settings)
status = open("/proc/self/status").read()  # getrusage would tell of the parent, too
peak_kb = int(status.split("VmHWM:")[1].split()[0])
print(json.dumps({"documents": manifest.total().documents, "peak_mb": peak_kb >> 10}))
"""


def made_up_blocks(folder: Path) -> Iterator[bytes]:
    """Invented documents for ever, each with an id and an end of its own, and no new word."""
    write_pubtator(folder / "demo.PubTator", make_corpus(200, seed=1))
    blocks = (folder / "demo.PubTator").read_bytes().strip().split(b"\n\n")
    for number, block in zip(count(10_000_000), cycle(blocks), strict=False):
        lines = block.replace(block.split(b"|", 1)[0], b"%d" % number).split(b"\n")
        lines[1] += b" Trial %s." % b" ".join(b"%c" % digit for digit in b"%d" % number)
        yield b"\n".join(lines) + b"\n\n"


def write_made_up(path: Path, num_bytes: int) -> int:
    """Fill a file; the number of its documents."""
    blocks, num_documents = made_up_blocks(path.parent), 0
    with path.open("wb") as file:
        while file.tell() < num_bytes:
            file.write(next(blocks))
            num_documents += 1
    return num_documents


def peak_mb(folder: Path, megabytes: int) -> int:
    source, out = folder / f"{megabytes}.PubTator", folder / f"{megabytes}.out"
    num_documents = write_made_up(source, megabytes << 20)
    command = [sys.executable, "-c", SHARD_IN_A_CHILD, source, out, folder / "tokenizer"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    found = json.loads(done.stdout)
    assert found["documents"] == num_documents
    return found["peak_mb"]


@pytest.mark.slow
def test_a_file_four_times_as_large_takes_hardly_more_memory(tmp_path: Path) -> None:
    """Keeping the input, or what it is encoded to, would take more than 45 MB."""
    tiny_tokenizer(tmp_path / "tokenizer")
    small, large = peak_mb(tmp_path, 20), peak_mb(tmp_path, 80)
    assert large - small < 45
    assert large < 750  # of which 330 are libraries
