"""Show documents of a pretraining run before and after masking, and their targets.

    python tools/show_masking.py configs/pretrain/gold_minilm.yaml
    python tools/show_masking.py demo/pretrain.yaml masking.objective=entity --documents 10

Documents are read from the run's streams with its seed, as in training. If the output is not a
terminal, marks replace colours; FORCE_COLOR=1 keeps the colours, for `less -R`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from embre.cli.options import run_script
from embre.config import PretrainConfig, load_config
from embre.launch.errors import exit_on_error
from embre.refused import Refused
from embre.shards.documents import COLOURS, ConceptNames, join_word_pieces, word_pieces
from embre.shards.entities import chosen
from embre.shards.shard_set import ShardSet
from embre.shards.tables import share
from embre.stream.masked_documents import MaskedDocument, masked_documents
from embre.stream.source import StreamSource
from embre.tokenization.tokenizer import TextTokenizer, load_tokenizer
from embre.wording import printable

TYPES = tuple(COLOURS)


@exit_on_error()
def main(
    config: Annotated[Path, typer.Argument(help="YAML file of a pretraining run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, such as masking.unit=mention.")
    ] = None,
    documents: Annotated[int, typer.Option(min=1, help="Number of documents to show.")] = 3,
    epoch: Annotated[int, typer.Option(min=0, help="Epoch, which decides the masks.")] = 0,
    stream: Annotated[int, typer.Option(min=0, help="Stream to show documents of.")] = 0,
) -> None:
    """Show documents of a pretraining run before and after masking, and their targets."""
    console = Console(highlight=False)
    run = load_config(PretrainConfig, config, overrides)
    with Console(stderr=True).status("reading shards"):
        tokenizer, names, docs = read_documents(run, stream, epoch, documents)
    plain = console.color_system is None or console.no_color
    place = f"{run.name}: seed {run.seed}, epoch {epoch}, stream {stream} of {run.data.streams}"
    settings = ", ".join(f"{key} {value}" for key, value in run.masking.model_dump().items())
    lines = [Text(place, "bold"), Text(f"masking: {settings}"), *legend(plain)]
    for doc in docs:
        lines += document_lines(doc, tokenizer, names, plain)
    for line in [*lines, Text(), Text(totals(docs), "bold")]:
        console.print(line, soft_wrap=not console.is_terminal)


def read_documents(
    run: PretrainConfig, stream: int, epoch: int, limit: int
) -> tuple[TextTokenizer, ConceptNames, list[MaskedDocument]]:
    """The first documents of a stream in an epoch, with the tokenizer and names to show them."""
    if stream >= run.data.streams:
        raise Refused(f"--stream {stream}: the last stream of the run is {run.data.streams - 1}")
    tokenizer, shard_set = load_tokenizer(run.encoder.path), ShardSet.open(run.data.shards)
    entities = chosen(shard_set, run)
    # Damaged shards are treated as in the run, but not recorded in its folder.
    with TemporaryDirectory() as quarantine:
        source = StreamSource.build(
            shard_set, run.data, run.masking, entities, tokenizer, run.seed, Path(quarantine)
        )
        docs = list(islice(masked_documents(source, stream, epoch), limit))
    return tokenizer, ConceptNames.of(shard_set), docs


def legend(plain: bool) -> Iterator[Text]:
    """Yield the meaning of the marks or colours."""
    line = Text("before: ")
    if plain:
        yield line.append("‹a mention|Type›, «a hidden one|Type»")
    else:
        for name, colour in COLOURS.items():
            line.append(name, f"bold {colour}").append(", ")
        line.append("a hidden one", "bold reverse").append(", ")
        yield line.append("another hidden token", "underline")
    line = Text("after:  ").append("[MASK]", "reverse").append(" in place of what is hidden, or ")
    line.append("≠word", "bold reverse").append(" another token, or ")
    yield line.append("=word", "underline").append(" left as it was")


def document_lines(
    doc: MaskedDocument, tokenizer: TextTokenizer, names: ConceptNames, plain: bool
) -> Iterator[Text]:
    """Yield a document before and after masking, and its targets."""
    texts = join_word_pieces(word_pieces(doc.before, tokenizer))
    piece = f", from its token {doc.offset:,} on" if doc.offset else ""
    hidden = f", {share(int(doc.hidden.sum()), len(doc.before))} of {len(doc.before)} tokens hidden"
    targets = f", {int(doc.token_targets.sum())} token targets"
    facts = (f"{piece}{hidden}{targets}", "dim")
    yield Text.assemble("\n", (printable(doc.doc_id), "bold"), facts)
    yield Text.assemble(("before: ", "dim"), text_before(doc, texts, plain))
    yield Text.assemble(("after:  ", "dim"), text_after(doc, tokenizer))
    yield from target_lines(doc, texts, names)


def text_before(doc: MaskedDocument, texts: list[str], plain: bool) -> Text:
    """The text before masking, with mentions in colour or between marks."""
    opens, closes, inner = defaultdict(str), defaultdict(str), set()
    for (start, end, kind), hidden in doc.spans.items():
        opens[start] += "«" if hidden else "‹"
        closes[end - 1] = f"|{TYPES[kind]}{'»' if hidden else '›'}{closes[end - 1]}"
        inner.update(range(start + 1, end))
    text = Text()
    for at, (piece, colour) in enumerate(zip(texts, colours(doc), strict=True)):
        style = f"bold {colour}" if colour else ""
        if doc.hidden[at]:
            style += " reverse" if doc.covered[at] else " underline"
        word = piece.lstrip(" ")
        text.append(piece.removesuffix(word), style if at in inner else "")
        text.append(f"{opens[at]}{word}{closes[at]}" if plain else word, style)
    return text


def text_after(doc: MaskedDocument, tokenizer: TextTokenizer) -> Text:
    """The masked text, the input of the model."""
    text = Text()
    pieces = join_word_pieces(word_pieces(doc.after, tokenizer))
    for at, (piece, colour) in enumerate(zip(pieces, colours(doc), strict=True)):
        mark, style = "", "bold" if colour else ""
        if doc.hidden[at] and doc.after[at] == tokenizer.special.mask:
            style = "reverse"
        elif doc.hidden[at]:
            kept = doc.after[at] == doc.before[at]
            mark, style = ("=", "underline") if kept else ("≠", "bold reverse")
        word = piece.lstrip(" ")
        text.append(piece.removesuffix(word)).append(f"{mark}{word}", f"{style} {colour}")
    return text


def colours(doc: MaskedDocument) -> list[str]:
    """(n,) the colour of each token: that of the innermost mention, '' outside mentions."""
    by_token = [""] * len(doc.before)
    for start, end, kind in doc.spans:
        by_token[start:end] = [COLOURS[TYPES[kind]]] * (end - start)
    return by_token


def target_lines(doc: MaskedDocument, texts: list[str], names: ConceptNames) -> Iterator[Text]:
    """Yield a line for each target of the entity head: count, hidden text and concept."""
    counts = Counter()
    rows, identifiers = doc.mentions[doc.targets].tolist(), doc.identifiers[doc.targets]
    for (start, end, kind, concept), identifier in zip(rows, identifiers, strict=True):
        without = "not in the entity vocabulary" if concept else "no identifier"
        targets = "type and identifier" if identifier >= 0 else f"type only, {without}"
        label = names.label(concept) if concept else TYPES[kind]
        counts["".join(texts[start:end]).strip(), COLOURS[TYPES[kind]], label, targets] += 1
    for (surface, colour, label, targets), count in counts.items():
        mention = (surface, f"bold {colour}")
        yield Text.assemble(f"{count:>4} × ", mention, f" → {label}", (f" ({targets})", "dim"))


def totals(docs: list[MaskedDocument]) -> str:
    """A summary of the documents shown."""
    num_tokens = sum(len(doc.before) for doc in docs)
    spans = [hidden for doc in docs for hidden in doc.spans.values()]
    identifiers = sum(int((doc.identifiers[doc.targets] >= 0).sum()) for doc in docs)
    return (
        f"{len(docs)} documents, {num_tokens:,} tokens, "
        f"{share(sum(int(doc.hidden.sum()) for doc in docs), num_tokens)} of them hidden; "
        f"{sum(spans):,} of {len(spans):,} mentions hidden; targets: "
        f"{sum(int(doc.token_targets.sum()) for doc in docs):,} tokens, "
        f"{sum(int(doc.targets.sum()) for doc in docs):,} types, {identifiers:,} identifiers"
    )


if __name__ == "__main__":
    run_script(main)
