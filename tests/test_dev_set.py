"""The held-out documents are scored by all ranks together."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from embre.dev_set import DevSet
from embre.engines.engine import Engine
from embre.tally import Tally
from embre.world import World
from tests.tiny import document, tiny_relation_model, tiny_tokenizer

TEXT, ITSELF = (
    "<braf|Gene|673> causes <melanoma|Disease|D1>",
    ("Gene:673", "Gene:673", "Bind", True),
)


class Twins(World):
    """The first of two ranks that do the same."""

    def all_gather(self, value: Any) -> list[Any]:
        return [value, value]


def test_dropped_items_of_all_ranks_are_counted(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    loaded, tally = tiny_relation_model(tmp_path), Tally()
    docs = [document(TEXT, [ITSELF], doc_id=doc_id) for doc_id in ("1", "2")]
    engine = cast(Engine, SimpleNamespace(module=loaded.model))
    dev = DevSet(docs, [], loaded.builder, Twins(rank=0, size=2))
    assert dev.scored(engine, tally).documents.tolist() == [0, 1]
    assert tally.counts == {"relation/with_itself": 2}
