import os
import signal

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="only one process")
def test_processes_respect_groups(request: pytest.FixtureRequest) -> None:
    group = request.node.get_closest_marker("xdist_group").args[0]
    assert request.node.nodeid.endswith(f"@{group}"), "pytest-xdist distributes each test alone"


def test_a_group_that_takes_long_does_not_begin_last(request: pytest.FixtureRequest) -> None:
    items = request.session.items
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    ranks = [
        0 if item.get_closest_marker("ray") else 1 if item.path in slow else 2 for item in items
    ]
    assert ranks == sorted(ranks)


def test_ctrl_c_is_not_ignored_by_what_tests_start() -> None:
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
