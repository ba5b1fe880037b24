"""What tests share: where the real corpora lie on a development machine."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real corpora; a test that asks for it is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the real corpora are not on this machine (looked in {SHARED})")
    return SHARED
