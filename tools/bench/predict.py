"""The speed of `embre predict`, and whether it survives the loss of a node.

    python tools/bench/predict.py                      # 10,000 documents, one process
    python tools/bench/predict.py --nodes 2 --kill     # again on two Ray nodes, one is killed
    python tools/bench/predict.py --nodes 2 --kill --quick

Made-up documents in many files, and a small random model. Ray nodes are raylets of this machine
with one core each; the first is killed when a third of the files are written (with `--files 1`, the
first slice). The output is compared with the input, and byte for byte with that of one process. The
last line is one JSON object.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from fault_scene import cluster
from rich.console import Console

from embre.cli.options import run_script
from embre.config import EncoderConfig, NewEncoder, PairConfig
from embre.corpora import CORPORA, read_documents, write_pubtator
from embre.demo.corpus import make_corpus
from embre.document import Document
from embre.model.backbone import load_encoder
from embre.prediction.record import read_record
from embre.prediction.slices import FOLDER
from embre.relations.model import RelationModel
from embre.relations.model_folder import LoadedModel, save_relation_model
from embre.relations.pass_builder import PassBuilder
from embre.relations.scored_pairs import Decision
from embre.tally import Tally
from embre.tokenization.learnt import learn_tokenizer
from embre.tokenization.tokenizer import load_tokenizer

SMALL = NewEncoder(layers=2, hidden=64, heads=2, feed_forward=128)
CORPUS_SIZE = 500  # made-up documents; the others are copies under other ids
KILL_AT = 1 / 3  # of the files
TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True)
class Scene:
    """A model, and a folder of inputs; `ids` are the document ids of each file, in order."""

    model: Path
    inputs: Path
    ids: dict[str, list[str]]


def main(
    documents: Annotated[int, typer.Option(help="Number of documents.")] = 10_000,
    files: Annotated[int, typer.Option(help="Number of files.")] = 100,
    nodes: Annotated[
        int, typer.Option(help="Number of Ray nodes of a second run, one core each.")
    ] = 0,
    kill: Annotated[
        bool, typer.Option("--kill", help="Kill the first node during the run.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few documents: no figures to quote.")
    ] = False,
) -> None:
    """Predict, and check the output."""
    if kill and nodes < 2:
        raise typer.BadParameter("--kill needs --nodes 2 or more")
    console = Console(soft_wrap=True, highlight=False)
    if quick:
        documents, files = 400, 20
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        scene = build(place, documents, files)
        alone = place / "alone"
        rate = finish(start(scene, alone))
        found: dict[str, Any] = {"documents": documents, "files": files, "one_process": rate}
        console.print(f"one process, one thread: {rate:,.1f} documents/s")
        found |= check(scene, alone)
        if nodes:
            found |= on_nodes(scene, place / "nodes", alone, nodes, kill)
            console.print(f"{nodes} nodes: {found['nodes_rate']:,.1f} documents/s")
    print(json.dumps(found))
    sound = not found["missing"] and not found["twice"] and found.get("same", True)
    raise typer.Exit(0 if sound else 1)


def build(place: Path, documents: int, files: int) -> Scene:
    """Write a model and the inputs."""
    docs = make_corpus(min(documents, CORPUS_SIZE), seed=3)
    write_model(place, docs)
    ids: dict[str, list[str]] = {}
    for file in range(files):
        numbers = range(file * documents // files, (file + 1) * documents // files)
        some = [replace(docs[n % len(docs)], doc_id=str(10_000_000 + n)) for n in numbers]
        some = [replace(doc, relations=(), pmid=doc.doc_id) for doc in some]
        name = f"{file:05d}.PubTator"
        write_pubtator(place / "in" / name, some)
        ids[name] = [doc.doc_id for doc in some]
    return Scene(place / "model", place / "in", ids)


def write_model(place: Path, docs: list[Document]) -> Path:
    """Write a small random relation model with a tokenizer of the documents' words."""
    learn_tokenizer((doc.text for doc in docs), 2000, place / "tokenizer")
    tokenizer, schema = load_tokenizer(place / "tokenizer"), CORPORA["biored"]
    config = PairConfig()
    builder = PassBuilder.build(tokenizer, schema, 512, config)
    torch.manual_seed(1)
    settings = EncoderConfig(path=str(place / "tokenizer"), new=SMALL)
    model = RelationModel(
        load_encoder(settings, tokenizer),
        config,
        len(schema.labels),
        builder.tokenizer.vocabulary,
        half_precision=False,
    )
    save_relation_model(place / "model", LoadedModel(model, builder, Decision()))
    return place / "model"


def start(scene: Scene, out: Path, *more: str) -> subprocess.Popen:
    """Start `embre predict` in a new process."""
    command = [sys.executable, "-m", "embre", "predict", str(scene.model)]
    command += [str(scene.inputs), "--out", str(out), "--json", *more]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True
    )


def finish(running: subprocess.Popen) -> float:
    """Wait for the command and return its documents per second; RuntimeError if it fails."""
    output, errors = running.communicate(timeout=TIMEOUT_S)
    if running.returncode:
        raise RuntimeError(f"exit {running.returncode}:\n{errors[-3000:]}")
    found = json.loads(output)
    return found["predicted_now"] / found["seconds"]


def on_nodes(scene: Scene, out: Path, alone: Path, nodes: int, kill: bool) -> dict[str, Any]:
    """Predict on a Ray cluster of this machine, whose first node is killed if `kill`."""
    killed_after = 0
    with cluster(nodes) as (made, all_nodes):
        running = start(scene, out, "--ray", made.address)
        if kill:
            killed_after = wait_for_files(out, running, max(1, int(len(scene.ids) * KILL_AT)))
            raylet = all_nodes[0].all_processes["raylet"][0].process.pid
            os.kill(raylet, signal.SIGKILL)
        rate = finish(running)
    same = all((out / name).read_bytes() == (alone / name).read_bytes() for name in scene.ids)
    found = {"nodes": nodes, "nodes_rate": rate, "same": same, **check(scene, out)}
    return {**found, "killed_after_files": killed_after} if kill else found


def wait_for_files(out: Path, running: subprocess.Popen, number: int) -> int:
    """Wait for `number` outputs or slices of outputs; return how many there are."""
    while (there := len([*out.glob("*.PubTator"), *out.glob(f"{FOLDER}/*")])) < number:
        if running.poll() is not None:
            raise RuntimeError(f"the command ended with {there} files:\n{finish(running)}")
        time.sleep(0.05)
    return there


def check(scene: Scene, out: Path) -> dict[str, Any]:
    """Count documents that are missing or misplaced, and those that occur more than once."""
    found = {
        name: [doc.doc_id for doc in read_documents(out / name, Tally())]
        for name in scene.ids
        if (out / name).is_file()
    }
    counts = Counter(one for ids in found.values() for one in ids)
    missing = sum(one not in found.get(name, ()) for name, ids in scene.ids.items() for one in ids)
    recorded = read_record(out).files.values()
    return {
        "missing": missing,
        "twice": sum(count > 1 for count in counts.values()),
        "recorded": sum(one.documents for one in recorded),
        "relations": sum(one.relations for one in recorded),
        "left_behind": len(list(out.rglob("*.partial"))),
    }


if __name__ == "__main__":
    run_script(main)
