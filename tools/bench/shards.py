"""The speed of sharding compared with baselines, of reading shards, and the linearity of its cost.

    python tools/bench/shards.py --quick                   a minute, with a made-up tokenizer
    python tools/bench/shards.py --tokenizer pubmedbert/   for the record, a quarter of an hour

Dumps are made up (`made_up_dump`). Baselines and ours alternate, so that a busy machine slows both;
`text_ratio`, `xml_ratio` and the rates are medians. A rate is documents per second of one core,
whose time is the longer of wall-clock and CPU time. The startup of programs is not counted: the
baselines run in this process, and from ours the cost of sharding eight documents is subtracted. The
last line is one JSON object.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from dump_files import write_text, write_xml
from made_up_tokenizer import save_made_up_tokenizer
from measuring import Cost, Rate, cost_of_call, cost_of_command
from naive import load_tokenizer, run_naive
from rich.console import Console
from rich.table import Table
from same import check_same
from webdataset.compat import WebDataset

from embre.cli.options import run_script
from embre.shards.shard_set import ShardSet

ROOT = Path(__file__).resolve().parents[2]
SEED = 0
TINY = 8  # documents
MIN_OF_STARTUP = 0.2  # less work cannot be distinguished from the variation of the startup
FILES = 10  # of a large dump, as of PubTator's
ABSTRACTS, FULL_TEXTS, FULL_TEXT_SIZE = 36_000_000, 6_000_000, 15  # a full text is 15 abstracts


@dataclass(frozen=True, slots=True)
class Plan:
    """The numbers of repetitions, documents and processes."""

    repeats: int
    naive_documents: int
    text_documents: int
    xml_documents: int
    sizes: list[int]
    processes: list[int]


QUICK = Plan(2, 400, 8000, 6000, [1000, 8000], [1])
FULL = Plan(3, 2000, 100_000, 40_000, [1000, 10_000, 100_000, 1_000_000], [1, 2])


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Small dumps, one process, a minute.")
    ] = False,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Hugging Face folder; default: a made-up tokenizer.")
    ] = None,
    sizes: Annotated[
        str, typer.Option(help="Sizes of the dumps for linear cost, with commas.")
    ] = "",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the last line here.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for temporary dumps and shards.")
    ] = None,
) -> None:
    """Measure sharding."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    plan = QUICK if quick else FULL
    dump_sizes = [int(size) for size in sizes.split(",") if size] or plan.sizes
    console = Console(soft_wrap=True, highlight=False)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        bench = Bench(Path(folder), tokenizer, plan, console)
        result = bench.run(dump_sizes)
    line = json.dumps(result)
    if json_file is not None:
        json_file.write_text(line + "\n")
    print(line)


def run_ours(inputs: list[str], out: Path, tokenizer: Path, processes: int) -> Cost:
    """Shard with our command in new processes; returns the cost including startup."""
    shutil.rmtree(out, ignore_errors=True)  # otherwise the command would resume
    command = [sys.executable, str(ROOT / "tools" / "shard_pubtator.py"), *inputs]
    command += ["--tokenizer", str(tokenizer), "--out", str(out)]
    return cost_of_command([*command, "--processes", str(processes), "--no-shipped-hold-out"])


class Bench:
    """One run of the benchmark in a folder of its own."""

    def __init__(self, folder: Path, tokenizer: Path | None, plan: Plan, console: Console):
        self.folder, self.plan, self.console = folder, plan, console
        self.tokenizer_name = tokenizer.name if tokenizer else "made up"
        self.tokenizer = tokenizer or folder / "tokenizer"
        if tokenizer is None:
            save_made_up_tokenizer(self.tokenizer)
        self.startups: dict[int, Cost] = {}

    def run(self, sizes: list[int]) -> dict[str, Any]:
        plan = self.plan
        text = self.compare("text", write_text, plan.text_documents, ["text"])
        xml = self.compare("xml", write_xml, plan.xml_documents, ["xml (bioc)", "xml (lxml tree)"])
        reading = self.read_back()
        linear = self.linear_cost(sizes)
        largest = [row for row in linear if row["documents"] == max(sizes)]
        rates = {row["processes"]: row["docs_per_s"] for row in largest}
        bytes_per_document = largest[0]["shard_bytes"] / largest[0]["documents"]
        text_rate = largest[0]["docs_per_s_core"] or text["rates"]["ours"]["median"]
        xml_rate = xml["rates"]["ours"]["median"]
        return {
            "text_ratio": text["ratio"],
            "xml_ratio": xml["ratio"],
            "read_docs_per_s": reading["ours, checked"]["median"],
            "tokenizer": self.tokenizer_name,
            "text": text,
            "xml": xml,
            "reading": reading,
            "startup_s": {str(key): round(cost.wall_s, 2) for key, cost in self.startups.items()},
            "linear": linear,
            "scaling_1_to_2": round(rates[2] / rates[1], 2)
            if all(map(rates.get, (1, 2)))
            else None,
            "full_dump": self.extrapolate(text_rate, xml_rate, bytes_per_document),
        }

    def startup(self, processes: int) -> Cost:
        """The cost of sharding eight documents, median by wall-clock time."""
        if processes not in self.startups:
            tiny = write_text(self.folder / "tiny", TINY, SEED)
            out = self.folder / "tiny-set"
            costs = [
                run_ours(tiny, out, self.tokenizer, processes) for _ in range(self.plan.repeats)
            ]
            costs.sort(key=lambda cost: cost.wall_s)
            self.startups[processes] = costs[len(costs) // 2]
        return self.startups[processes]

    def compare(
        self, form: str, write: Callable[..., list[str]], num_documents: int, readers: list[str]
    ) -> dict[str, Any]:
        """Compare baselines and ours on one dump; returns the ratio to the fastest baseline.

        The baselines read fewer documents, to save time: their rate does not depend on the number.
        Ours starts with an empty word cache.
        """
        sample = write(self.folder / "sample", self.plan.naive_documents, SEED)
        inputs = write(self.folder / form, num_documents, SEED)
        tokenizer = load_tokenizer(self.tokenizer)
        rates: dict[str, list[float]] = {name: [] for name in [*readers, "ours"]}
        for _ in range(self.plan.repeats):
            for reader in readers:
                out = self.folder / f"naive {reader}"
                shutil.rmtree(out, ignore_errors=True)
                cost = cost_of_call(partial(run_naive, reader, sample, tokenizer, out))
                rates[reader].append(self.plan.naive_documents / cost.core_s)
            cost = run_ours(inputs, self.folder / f"{form}-set", self.tokenizer, 1)
            rates["ours"].append(num_documents / cost.without(self.startup(1)).core_s)
        same = [
            check_same(self.folder / f"naive {name}", self.folder / f"{form}-set")
            for name in readers
        ]
        found = {name: Rate(tuple(each)) for name, each in rates.items()}
        ratio = found["ours"].median / max(found[reader].median for reader in readers)
        self.show(f"sharding {form}, one core: {ratio:.1f} times the best baseline", found)
        self.console.print(f"the same tokens and mentions in all {same[0]:,} documents compared")
        return {
            "ratio": round(ratio, 2),
            "documents": num_documents,
            "documents_compared": same[0],
            "rates": {name: rate.as_json() for name, rate in found.items()},
        }

    def read_back(self) -> dict[str, Any]:
        """Documents per second read from shards: by us, with checks, or by plain WebDataset."""
        ours = self.folder / "text-set"
        naive = self.folder / "naive text"
        ways: dict[str, Callable[[], int]] = {
            "ours, checked": lambda: read_shard_set(ours),
            "plain webdataset, our blocks": lambda: read_plain(ours, "meta.json"),
            "plain webdataset, a document each": lambda: read_plain(naive, None),
        }
        found: dict[str, Rate] = {}
        for name, read in ways.items():
            num_documents = read()
            costs = [cost_of_call(read) for _ in range(self.plan.repeats)]
            found[name] = Rate(tuple(num_documents / cost.core_s for cost in costs))
        self.show("reading back, one core", found)
        return {name: rate.as_json() for name, rate in found.items()}

    def linear_cost(self, sizes: list[int]) -> list[dict[str, Any]]:
        """Rate by size of the dump, and the memory of the largest process."""
        rows = []
        table = Table(title="linear cost, text", title_justify="left")
        for column in ("documents", "processes", "docs/s", "docs/s/core", "peak MB", "MB written"):
            table.add_column(column, justify="right")
        for size in sizes:
            inputs = write_text(self.folder / "linear", size, SEED, FILES if size > 1000 else 1)
            for processes in self.plan.processes:
                out = self.folder / "linear-set"
                # A small dump takes seconds, most of them startup.
                repeats = 1 if size > 10_000 or self.plan is QUICK else 3
                costs = [run_ours(inputs, out, self.tokenizer, processes) for _ in range(repeats)]
                works = [cost.without(self.startup(processes)) for cost in costs]
                wall_s = median(max(work.wall_s, work.cpu_s / processes) for work in works)
                core_s = median(max(work.wall_s * processes, work.cpu_s) for work in works)
                seen = wall_s > MIN_OF_STARTUP * self.startup(processes).wall_s
                row = {
                    "documents": size,
                    "processes": processes,
                    "docs_per_s": round(size / wall_s, 1) if seen else None,
                    "docs_per_s_core": round(size / core_s, 1) if seen else None,
                    "peak_mb": round(max(cost.peak_bytes for cost in costs) / 1e6),
                    "shard_bytes": ShardSet.open(out).manifest.total().bytes,
                }
                rows.append(row)
                shown = [*list(row.values())[:-1], row["shard_bytes"] / 1e6]
                table.add_row(*("–" if v is None else f"{v:,.0f}" for v in shown))
        self.console.print(table)
        return rows

    def extrapolate(
        self, text_rate: float, xml_rate: float, bytes_per_document: float
    ) -> dict[str, float]:
        """Core-hours and bytes of the whole dump, extrapolated linearly."""
        units = ABSTRACTS + FULL_TEXTS * FULL_TEXT_SIZE
        result: dict[str, float] = {"shard_gb": round(units * bytes_per_document / 1e9, 1)}
        show = self.console.print
        show(
            f"\nthe full dump: {ABSTRACTS / 1e6:.0f} M abstracts and {FULL_TEXTS / 1e6:.0f} M "
            f"full texts, {FULL_TEXT_SIZE} abstracts long, are {units / 1e6:.0f} M abstracts"
        )
        for form, rate in (("text", text_rate), ("xml", xml_rate)):
            for what, number in (("abstracts", ABSTRACTS), ("all", units)):
                hours = number / rate / 3600
                result[f"{form}_{what}_core_hours"] = round(hours, 2)
                sum_of = f"{number:,} / {rate:,.0f} docs/s / 3600"
                show(f"  {form}, {what}: {sum_of} = {hours:,.1f} core-hours")
        show(f"  shards: {units:,} x {bytes_per_document:,.0f} bytes = {result['shard_gb']:,} GB")
        return result

    def show(self, title: str, rates: dict[str, Rate]) -> None:
        table = Table(title=title, title_justify="left")
        for column in ("", "docs/s", "spread", "measured"):
            table.add_column(column, justify="right" if column else "left")
        for name, rate in rates.items():
            each = " ".join(f"{value:,.0f}" for value in rate.each)
            table.add_row(name, f"{rate.median:,.0f}", f"{rate.spread:.0%}", each)
        self.console.print(table)


def read_shard_set(folder: Path) -> int:
    """Load all shards, checking digests; return the number of documents."""
    shard_set = ShardSet.open(folder)
    shards = shard_set.manifest.shards
    return sum(len(block.doc_ids) for shard in shards for block in shard_set.load(shard))


def read_plain(folder: Path, names_in: str | None) -> int:
    """Load all shards with plain webdataset; `names_in` is the member that lists documents."""
    paths = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples: Any = WebDataset(paths, shardshuffle=False).decode()
    return sum(len(sample[names_in]["documents"]) if names_in else 1 for sample in samples)


if __name__ == "__main__":
    run_script(main)
