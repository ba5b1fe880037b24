"""What `embre register` does and prints."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embre.register import register_run


@dataclass(frozen=True, slots=True)
class Request:
    """A run to register under a name."""

    run: Path
    name: str
    alias: str | None
    if_better: str | None


def run_register(request: Request) -> Iterator[str]:
    """Register what a run made."""
    found = register_run(request.run, request.name, request.alias, request.if_better)
    what = "registered" if found.new else "was registered before:"
    yield f"{found.kind} {what} {request.name} version {found.version} in {found.uri}"
    if request.alias:
        yield f"models:/{request.name}@{request.alias}"
