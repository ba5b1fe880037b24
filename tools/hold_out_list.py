"""Corpora → a hold-out list: ids and fingerprints of their documents, without text.

    python tools/hold_out_list.py CDR_TestSet.PubTator.txt --out bc5cdr_test.tsv
    python tools/shard_pubtator.py dumps/ --out shards/ --hold-out bc5cdr_test.tsv

With --ids, only the documents with these ids. An id that no corpus has is listed without
fingerprints.
"""

from pathlib import Path
from typing import Annotated

import typer

from embre.atomic_files import write_atomic
from embre.cli.options import local_file, run_script
from embre.held_out import HELD_LIST_HEAD, hold_out_lines, read_hold_out_list
from embre.launch.errors import exit_on_error
from embre.refused import Refused

SUFFIX = ".tsv"  # by which --hold-out tells a list from a corpus


@exit_on_error()
def main(
    corpora: Annotated[list[str], typer.Argument(help="Files, folders or archives of documents.")],
    out: Annotated[Path, typer.Option(parser=local_file, help="The list to write, NAME.tsv.")],
    ids: Annotated[
        list[Path] | None,
        typer.Option(
            help="File of ids, one per line; other documents are left out. May be given several "
            "times."
        ),
    ] = None,
) -> None:
    """Write a list of documents to leave out of shards: ids and fingerprints, without text."""
    if out.suffix != SUFFIX:
        raise Refused(f"--out {out}: the name of a hold-out list must end in {SUFFIX}")
    only = {name for path in ids for name in read_hold_out_list(str(path)).ids} if ids else None
    lines = sorted(hold_out_lines(corpora, only))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, "".join(f"{line}\n" for line in [HELD_LIST_HEAD, *lines]).encode())
    typer.echo(f"{len(lines):,} ids in {out}")


if __name__ == "__main__":
    run_script(main)
