import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="only one process")
def test_processes_respect_groups(request: pytest.FixtureRequest) -> None:
    group = request.node.get_closest_marker("xdist_group").args[0]
    assert request.node.nodeid.endswith(f"@{group}"), "pytest-xdist distributes each test alone"
