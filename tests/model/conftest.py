"""Fixtures for the tests of compiled parts."""

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.utils import counters


@pytest.fixture
def nothing_compiled_before() -> Iterator[None]:
    """No graph of an earlier test is there, and none of this one's stays."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
