"""Compare a run on 1, 2 and 4 ranks, with 0 to 3 loader processes, uninterrupted or resumed.

    python tools/bench/worlds.py            a table of data hashes and losses, five minutes
    python tools/bench/worlds.py --quick    1 and 2 ranks without loader processes

The data digest is over the data hashes of all steps: texts and masks. The last line is one JSON
object: `data_digests`, their number, must be 1; `furthest` is the maximum relative difference of a
loss or gradient norm to that of one rank.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from fault_scene import STEPS, Scene, furthest, numbers, steps_of
from rich.console import Console
from rich.table import Table

from embre.cli.options import run_script

STOP_AT = 7


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="1 and 2 ranks, no loader processes.")
    ] = False,
) -> None:
    """Run the same pretraining at several sizes and compare."""
    console = Console(soft_wrap=True, highlight=False)
    whole = [
        (r, w) for r in ((1, 2) if quick else (1, 2, 4)) for w in ((0,) if quick else (0, 1, 3))
    ]
    walks = [([ranks], workers) for ranks, workers in whole]
    walks += [([1, 2], 0)] if quick else [([1, 4], 0), ([4, 1], 1), ([2, 4], 3), ([2, 2], 0)]
    found: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene.build(Path(folder))
        for sizes, workers in walks:
            name = f"{'-'.join(map(str, sizes))}-ranks-{workers}-workers"
            changes = {"engine": "torch", "launch": {"launcher": "local"}}
            config = scene.config(name, data__loader_workers=workers, **changes)
            for at, ranks in enumerate(sizes):
                last = at == len(sizes) - 1
                fault = "" if last else f"step:{STOP_AT}:raise"
                for mark in scene.run_folder(name).glob("fault-*"):
                    mark.unlink()
                code, output = scene.start(config, fault=fault, ranks=ranks).wait()
                if last and code:
                    raise RuntimeError(f"{name} failed with {code}:\n{output[-3000:]}")
            found[name] = scene.run_folder(name)
        steps = {name: steps_of(one) for name, one in found.items()}
    first = next(iter(steps.values()))
    table = Table(title=f"{STEPS} steps of the same run; stopped in step {STOP_AT} if two sizes")
    for column in ("ranks", "loader processes", "data of all steps", "last losses", "furthest"):
        table.add_column(column)
    digests = set()
    for (sizes, workers), (_, events) in zip(walks, steps.items(), strict=True):
        data = ",".join(str(events[step]["data"]) for step in range(1, STEPS + 1))
        digests.add(digest := hashlib.sha256(data.encode()).hexdigest()[:12])
        losses = " ".join(f"{value:.6f}" for value in numbers(events[STEPS])[1:])
        apart = f"{furthest(first, events):.0e}"
        table.add_row(" then ".join(map(str, sizes)), str(workers), digest, losses, apart)
    console.print(table)
    print(
        json.dumps(
            {
                "runs": len(walks),
                "data_digests": len(digests),
                "furthest": max(furthest(first, events) for events in steps.values()),
            }
        )
    )


if __name__ == "__main__":
    run_script(main)
