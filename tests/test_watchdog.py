"""A rank that hangs is ended and says where; slow setup, saves and validations are not."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from embre import watchdog
from embre.engines.step import run_micro_batches
from embre.relations.decode import score_pairs
from embre.tally import Tally
from embre.tracking.endings import why_ended
from embre.world import World
from tests.tiny import document, tiny_relation_model

# 0.2 s without progress is a hang.
TRAINS = """
import sys, time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from embre import watchdog
from embre.tracking.endings import leave_note

folder = Path(sys.argv[1])
watchdog.LOOK_EVERY_S, watchdog.WAITING_RANK_GRACE_S = 0.02, 0.4

def read_a_shard_that_does_not_come():
    time.sleep(60)

with watchdog.exit_if_stalled(0.2, folder, 3, partial(leave_note, folder, 3)):
    time.sleep(0.6)  # before the first step
    for step in range(1, 8):
        watchdog.report_step(step)
        time.sleep(0.1)
    with watchdog.extended_limit(60):
        time.sleep(0.6)
    watchdog.disarm()
    time.sleep(0.6)
    print("it was never ended", flush=True)
    watchdog.report_step(8)
    {end}
"""


def trained(folder: Path, end: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", TRAINS.replace("{end}", end), str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_rank_that_hangs_ends_and_says_where(tmp_path: Path) -> None:
    done = trained(tmp_path, "read_a_shard_that_does_not_come()")
    assert done.stdout == "it was never ended\n", done.stderr
    assert done.returncode == 1
    why = why_ended(tmp_path, 4)
    assert why.startswith(
        "rank 3: hung in code outside embre, 0 s after step 8; see stacks-3.txt, and "
    )
    assert "launch.step_timeout_s" in why and "this rank hung" in done.stderr
    assert "read_a_shard_that_does_not_come" in (tmp_path / "stacks-3.txt").read_text()


def test_a_run_that_ends_in_time_leaves_no_files(tmp_path: Path) -> None:
    done = trained(tmp_path, "pass")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_micro_batches_and_validation_report_progress(folder: Path) -> None:
    def times() -> int:
        return watchdog._progress.num_reports

    def model(_: Any) -> dict[str, torch.Tensor]:
        return {"token": torch.ones((), requires_grad=True)}

    batch: Any = SimpleNamespace(counts={"token": 1}, num_tokens=1, data_hash=0, slot=0)
    batch.to = lambda device: batch
    before = times()
    run_micro_batches(model, torch.Tensor.backward, [batch] * 3, {"token": 1.0}, World(), 1, 0)
    assert times() == before + 3
    doc = document("<BRAF|Gene|673> causes <melanoma|Disease|D1>")
    score_pairs(tiny_relation_model(folder), [doc], Tally())
    assert times() == before + 4
