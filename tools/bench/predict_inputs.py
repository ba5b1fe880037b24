"""What prediction costs besides the model: planning, the record, reading and assembling outputs.

    python tools/bench/predict_inputs.py              # 100,000 files, and one of 200 MB
    python tools/bench/predict_inputs.py --quick

The documents have many mentions of one concept, so there is no pair to score and the model takes no
time. The large file is predicted by `--workers` workers that take turns in this process: its
seconds are those of one core for all their work. The last line is one JSON object.
"""

import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from predict import write_model
from rich.console import Console

from embre.cli.options import run_script
from embre.demo.corpus import make_corpus
from embre.prediction.predict import plan, predict_files
from embre.workers import Workers

MENTIONS = 20  # of a document
WORDS = "the tumour of a patient with a mutation in BRAF grew again after treatment "


class InTurn:
    """Workers that are called one after the other in this process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def run(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        return (function(*one) for one in calls)


def main(
    files: Annotated[int, typer.Option(help="Small files, of one document each.")] = 100_000,
    megabytes: Annotated[int, typer.Option(help="Size of the large file.")] = 200,
    workers: Annotated[int, typer.Option(help="Workers on the large file.")] = 16,
    quick: Annotated[bool, typer.Option("--quick", help="Little data: no figures.")] = False,
) -> None:
    """Measure many small files and one large one."""
    if quick:
        files, megabytes = 500, 20
    console = Console(soft_wrap=True, highlight=False)
    found: dict[str, Any] = {"files": files, "megabytes": megabytes, "workers": workers}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = write_model(place, make_corpus(100, seed=3))
        small, large = place / "small", place / "large.PubTator"
        for number in range(files):
            inner = small / f"{number // 1000:04d}"
            inner.mkdir(parents=True, exist_ok=True)
            (inner / f"{number}.PubTator").write_text(document(number))
        many = place / "many"
        found["first_s"], record = predicted(model, small, many)
        found["resumed_s"], again = predicted(model, small, many)
        assert record.documents == again.documents == again.done_before == files
        found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        with large.open("w") as file:
            number = 0
            while file.tell() < megabytes * 1_000_000:
                number += 1
                file.write(document(number))
        found["documents"] = number
        found["one_process_s"], alone = predicted(model, large, place / "alone")
        found["slices_s"], shared = predicted(model, large, place / "shared", InTurn(workers))
        assert alone.documents == shared.documents == number
        assert alone.files[0].read_bytes() == shared.files[0].read_bytes()
    for name, value in found.items():
        console.print(f"{name:>14} {value:,}")
    print(json.dumps(found))


def document(number: int) -> str:
    """A document of 1.5 kB of text with MENTIONS mentions of one gene."""
    text = WORDS * MENTIONS
    at, size, begin = WORDS.index("BRAF"), len(WORDS), len("A study. ")
    lines = [f"{number}|t|A study.", f"{number}|a|{text}"]
    for nth in range(MENTIONS):
        start = begin + nth * size + at
        lines.append(f"{number}\t{start}\t{start + 4}\tBRAF\tGene\t673")
    return "\n".join([*lines, "", ""])


def predicted(model: Path, source: Path, out: Path, workers: Workers | None = None) -> Any:
    """Seconds of a prediction, and its result."""
    started = time.perf_counter()
    result = predict_files(model, plan([str(source)], out), out, "bench", workers=workers)
    return round(time.perf_counter() - started, 1), result


if __name__ == "__main__":
    run_script(main)
