"""The tokenizer of a shard set: copied, or learnt from its documents."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from embre.atomic_files import atomic_folder
from embre.corpora import read_checked
from embre.corpora.raw import CheckedDocument
from embre.held_out import HoldOutList, fingerprint
from embre.refused import Refused
from embre.tally import Tally
from embre.tokenization.learnt import learn_tokenizer
from embre.tokenization.tokenizer import copy_tokenizer
from embre.wording import without_secrets

DOCUMENTS_TO_LEARN_FROM = 20_000


def keep_tokenizer(
    folder: Path,
    given: Path | None,
    sources: Sequence[str],
    held: Sequence[HoldOutList],
    vocabulary: int,
) -> None:
    """Write a copy of the `given` tokenizer, or a learnt one, to `folder`, atomically.

    Raises Refused if there is no document to learn from.
    """
    with atomic_folder(folder) as partial:
        if given:
            copy_tokenizer(given, partial)
            return
        tally, num_held = Tally(), Counter[str]()
        docs = islice(_documents(sources, held, tally, num_held), DOCUMENTS_TO_LEARN_FROM)
        if not (texts := [doc.text for doc in docs]):
            raise Refused(nothing_to_shard(sources, num_held, tally))
        learn_tokenizer(texts, vocabulary, partial)


def nothing_to_shard(sources: Sequence[str], num_held: Mapping[str, int], tally: Tally) -> str:
    """Error message for inputs without a document to shard."""
    lost = "; ".join(line.strip() for line in tally.lines()) or "nothing was dropped"
    return (
        f"{', '.join(map(without_secrets, sources))}: no document to shard "
        f"({sum(num_held.values())} held out; {lost}); give PubTator, BioC-XML or BioC-JSON files, "
        "folders or archives"
    )


def _documents(
    sources: Sequence[str], held: Sequence[HoldOutList], tally: Tally, num_held: Counter[str]
) -> Iterator[CheckedDocument]:
    """Documents to learn a tokenizer from, without held-out ones and duplicate texts."""
    seen: set[int] = set()
    for doc in (doc for source in sources for doc in read_checked(source, tally)):
        prints = fingerprint(doc)
        if lists := [one.name for one in held if one.has(doc, prints)]:
            num_held[lists[0]] += 1
        elif prints.text not in seen:
            seen.update({prints.text} - {0})
            yield doc
