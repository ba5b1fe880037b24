"""What tokenizer a folder gives, and which folders are refused."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from embre.tokenization.tokenizer import load_tokenizer
from tests.tiny import SPECIAL_TOKENS


def vocabulary_in(folder: Path, pieces: list[str], **config: object) -> Path:
    """A folder as BERT's first ones were published."""
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS.values(), *pieces]))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_cased_vocabulary_is_not_read_in_lower_case_unasked(tmp_path: Path) -> None:
    capitals = [f"{letter}{number}" for letter in "BRAF" for number in range(40)]
    with pytest.raises(ValueError, match='160 pieces with capitals.*"do_lower_case": false'):
        load_tokenizer(vocabulary_in(tmp_path, [*capitals, *"braf"]))
    cased = load_tokenizer(vocabulary_in(tmp_path, [*capitals, *"braf"], do_lower_case=False))
    assert cased.backend.id_to_token(int(cased.encode(["B7"]).ids[0])) == "B7"


def test_a_tokenizer_that_is_no_wordpiece_is_refused(tmp_path: Path) -> None:
    backend = Tokenizer(WordLevel({f"w{number}": number for number in range(40)}, unk_token="w0"))
    backend.add_special_tokens([*SPECIAL_TOKENS.values()])
    PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL_TOKENS).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a WordLevel tokenizer; give a folder with a WordPiece"):
        load_tokenizer(tmp_path)
