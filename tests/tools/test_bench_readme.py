"""Every script and helper of the benchmarks stands in their README."""

from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "tools" / "bench"


def test_every_file_of_the_benchmarks_is_told_of() -> None:
    scripts, helpers = (BENCH / "README.md").read_text().split("Shared modules:")
    for path in BENCH.glob("*.py"):
        table = scripts if '__name__ == "__main__"' in path.read_text() else helpers
        assert f"`{path.name}`" in table, f"{path.name}: give it a line in tools/bench/README.md"
