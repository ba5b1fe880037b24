"""`python -m embre.cli.tied …` is the `embre` command of a run that ends with who started it:
when the other end of its standard input closes, it is asked to stop as by SIGTERM."""

import os
import signal
import sys
import threading

from embre.cli.app import main


def stop_when_parent_exits() -> None:
    """A closed pipe is the one sign that comes whatever ended the starter, kill -9 too."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":  # the processes of a loader import this file too
    threading.Thread(target=stop_when_parent_exits, daemon=True).start()
    main()
