"""How much faster one pass per document is than one per pair.

    python tools/bench/relations.py --corpus corpora/biored/Dev.PubTator --encoder backbones/minilm
    python tools/bench/relations.py --quick

Documents per second of `pairs.encoding` document and pairwise, same backbone, same machine, taken
in turn: training (forward, backward and update) and prediction (text to relations). Documents are
spread evenly over the corpus's range of pairs per document, because pairwise costs a pass for each
pair. Without a corpus it is the made-up one, without an encoder a random one of two layers.
The last line is one JSON object.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from measuring import Rate
from rich.console import Console

from embre.cli.options import run_script
from embre.config import EncoderConfig, NewEncoder, OptimizerConfig, PairConfig
from embre.corpora import CORPORA, read_documents
from embre.demo.corpus import make_corpus
from embre.document import Document
from embre.engines.torch_engine import TorchEngine
from embre.model.backbone import load_encoder
from embre.relations.decode import predict, strips
from embre.relations.model import RelationModel
from embre.relations.model_folder import LoadedModel
from embre.relations.pass_builder import PassBuilder
from embre.relations.scored_pairs import Decision
from embre.tally import Tally
from embre.tokenization.learnt import learn_tokenizer
from embre.tokenization.tokenizer import load_tokenizer
from embre.world import World

ENCODINGS = ("document", "pairwise")
SMALL = NewEncoder(layers=2, hidden=128, heads=2, feed_forward=512)


def main(
    corpus: Annotated[Path | None, typer.Option(help="Annotated documents.")] = None,
    encoder: Annotated[Path | None, typer.Option(help="Hugging Face folder of a BERT.")] = None,
    documents: Annotated[int, typer.Option(help="Number of documents of the corpus.")] = 12,
    rounds: Annotated[
        int, typer.Option(help="Number of rounds; each encoding is timed once in each.")
    ] = 3,
    device: Annotated[str, typer.Option(help="cpu or cuda, there in bf16.")] = "cpu",
    quick: Annotated[
        bool, typer.Option("--quick", help="Few documents: no figures to quote.")
    ] = False,
) -> None:
    """Compare the two encodings."""
    console = Console(soft_wrap=True, highlight=False)
    found = list(read_documents(corpus, Tally())) if corpus else make_corpus(40, seed=3)
    if quick:
        documents, rounds = 3, 1
    docs = spread_out(found, documents)
    with tempfile.TemporaryDirectory() as folder:
        models = {
            encoding: build(encoding, encoder, found, Path(folder), torch.device(device))
            for encoding in ENCODINGS
        }
    passes = {name: num_passes(loaded, docs) for name, loaded in models.items()}
    per_doc = passes["pairwise"] / len(docs)
    console.print(f"{len(docs)} documents, {per_doc:.1f} candidate pairs a document, on {device}")
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for what, work in (("predict", predicting), ("train", training)):
            for name, loaded in models.items():
                seconds = timed(work(loaded, docs), device)
                rates.setdefault((what, name), []).append(len(docs) / seconds)
    result: dict[str, object] = {"device": device, "passes_per_doc_pairwise": round(per_doc, 2)}
    for what in ("predict", "train"):
        pairs = zip(rates[what, "document"], rates[what, "pairwise"], strict=True)
        result[f"{what}_ratio"] = round(median(one / other for one, other in pairs), 2)
        for name in ENCODINGS:
            rate = Rate(tuple(rates[what, name]))
            console.print(f"{what} {name}: {rate.median:.2f} documents/s, spread {rate.spread:.0%}")
            result[f"{what}_{name}"] = [round(one, 4) for one in rate.each]
    print(json.dumps(result))


def spread_out(docs: list[Document], number: int) -> list[Document]:
    """Documents at equal steps of their rank by candidate pairs."""
    schema = CORPORA["biored"]
    ordered = sorted(docs, key=lambda doc: sum(1 for _ in schema.candidates(doc)))
    ordered = [doc for doc in ordered if any(schema.candidates(doc))]
    number = min(number, len(ordered))
    return [ordered[(2 * place + 1) * len(ordered) // (2 * number)] for place in range(number)]


def build(
    encoding: str, encoder: Path | None, docs: list[Document], scratch: Path, device: torch.device
) -> LoadedModel:
    """A relation model whose heads know nothing, which costs the same."""
    torch.manual_seed(1)
    if encoder is None and not (scratch / "tokenizer.json").exists():
        learn_tokenizer((doc.text for doc in docs), 2000, scratch)
    settings = EncoderConfig(path=str(encoder or scratch), new=None if encoder else SMALL)
    tokenizer, schema = load_tokenizer(settings.path), CORPORA["biored"]
    config = PairConfig.model_validate({"encoding": encoding})
    pair_encoder = PassBuilder.build(tokenizer, schema, 512, config)
    model = RelationModel(
        load_encoder(settings, tokenizer),
        config,
        len(schema.labels),
        pair_encoder.tokenizer.vocabulary,
        half_precision=device.type == "cuda",
    )
    return LoadedModel(model.to(device), pair_encoder, Decision())


def num_passes(loaded: LoadedModel, docs: list[Document]) -> int:
    return sum(1 for doc in docs for _ in loaded.builder.passes(doc, Tally()))


def predicting(loaded: LoadedModel, docs: list[Document]) -> Callable[[], object]:
    """Text to relations; the relations that a document has are not looked at."""
    return lambda: list(predict(loaded, docs))


def training(loaded: LoadedModel, docs: list[Document]) -> Callable[[], object]:
    """An epoch over documents that are encoded already, as a run has them; in strips of the same
    size for both."""
    passes = [one for doc in docs for one in loaded.builder.passes(doc, Tally())]
    batches = [loaded.builder.collate(some, slot=0) for some in strips(passes)]
    device = next(loaded.model.parameters()).device
    world = World(device=device)
    engine = TorchEngine(loaded.model, OptimizerConfig(), loaded.model.loss_weights, world, 1)

    def epoch() -> None:
        for step, batch in enumerate(batches):
            engine.step([batch], step, lr=1e-5)

    return epoch


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds of a call, with what the device still has to do."""
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    run_script(main)
