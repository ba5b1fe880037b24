"""Ctrl-C at a terminal, which sends SIGINT to a command and all its processes; numbers of cores."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embre.workers import num_cores

BUSY_AND_IDLE = """
import time
from pathlib import Path
from embre.workers import Processes

def wait_for_both(name):
    Path(name).touch()
    while not all(map(Path.exists, map(Path, "ab"))):
        time.sleep(0.01)

def work():
    Path("c").touch()
    time.sleep(60)

if __name__ == "__main__":
    with Processes(2, preload="embre.workers") as workers:
        list(workers.run(wait_for_both, ["a", "b"]))
        try:
            list(workers.run(work, [()]))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


@pytest.mark.slow
def test_workers_end_by_ctrl_c_at_once_and_silently(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(BUSY_AND_IDLE)
    run = subprocess.Popen(
        [sys.executable, tmp_path / "run.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    for _ in range(600):
        time.sleep(0.1)
        if (tmp_path / "c").exists() or run.poll() is not None:
            break
    os.killpg(run.pid, signal.SIGINT)
    shown, errors = run.communicate(timeout=30)
    assert (shown, errors, run.returncode) == ("interrupted\n", "", 0)


def test_as_many_processes_as_cores_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5}, raising=False)
    assert num_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert num_cores() == 64
