"""Corpora → a hold-out list: ids and fingerprints of their documents, without text.

    python tools/hold_out_list.py CDR_TestSet.PubTator.txt --out bc5cdr_test.tsv
    python tools/shard_pubtator.py dumps/ --out shards/ --hold-out bc5cdr_test.tsv

With --ids, only the documents with these ids.
"""

from pathlib import Path
from typing import Annotated

import typer

from embre.cli.options import local_path
from embre.held_out import HELD_LIST_HEAD, hold_out_lines, read_hold_out_list
from embre.launch.errors import exit_on_error


@exit_on_error()
def main(
    corpora: Annotated[list[str], typer.Argument(help="Files, folders or archives of documents.")],
    out: Annotated[Path, typer.Option(parser=local_path, help="The list to write.")],
    ids: Annotated[
        list[Path] | None,
        typer.Option(help="Files of ids, one per line; other documents are left out."),
    ] = None,
) -> None:
    """Write a hold-out list."""
    only = {name for path in ids for name in read_hold_out_list(str(path)).ids} if ids else None
    lines = sorted(hold_out_lines(corpora, only))
    out.write_text("".join(f"{line}\n" for line in [HELD_LIST_HEAD, *lines]))
    typer.echo(f"{len(lines):,} ids in {out}")


if __name__ == "__main__":
    typer.run(main)
