"""Ctrl-C at a terminal, which sends SIGINT to a command and all its processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BUSY_AND_IDLE = """
import time
from embre.workers import Processes
if __name__ == "__main__":
    with Processes(2, preload="embre.workers") as workers:
        list(workers.run(time.sleep, [(0.5,), (0.5,)]))
        print("ready", flush=True)
        try:
            list(workers.run(time.sleep, [(60,)]))
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
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    )
    assert run.stdout is not None and run.stdout.readline() == "ready\n"
    time.sleep(0.5)  # the call is on its way
    os.killpg(run.pid, signal.SIGINT)
    shown, errors = run.communicate(timeout=30)
    assert (shown, errors, run.returncode) == ("interrupted\n", "", 0)
