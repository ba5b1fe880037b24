"""Packed strips give what padded batches give; what is exported is a plain Hugging Face BERT."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from embre.config import EncoderConfig
from embre.model.backbone import check_length, load_encoder
from embre.model.strip_forward import LowPrecisionLayerNorm, encode_strip
from embre.tokenization.tokenizer import TextTokenizer, copy_tokenizer, load_tokenizer, refuse_code
from tests.tiny import tiny_encoder

LENGTHS = (7, 1, 30, 12)
PADDING = 14


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> TextTokenizer:
    return load_tokenizer(folder)


def strip(tokenizer: TextTokenizer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    ids = torch.randint(5, tokenizer.vocabulary, (sum(LENGTHS) + PADDING,))
    position_ids = torch.cat([torch.arange(n) for n in (*LENGTHS, PADDING)])
    cu_seqlens = torch.tensor([0, *LENGTHS, PADDING]).cumsum(0).to(torch.int32)
    return ids, position_ids, cu_seqlens


def test_a_packed_strip_equals_a_padded_batch(folder: Path, tokenizer: TextTokenizer) -> None:
    model = load_encoder(tiny_encoder(folder), tokenizer).eval()
    ids, position_ids, cu_seqlens = strip(tokenizer)
    packed = encode_strip(model.bert, ids, position_ids, cu_seqlens, max(LENGTHS))

    plain = BertForMaskedLM(BertConfig(**model.config.to_dict())).eval()
    plain.set_attn_implementation("sdpa")
    plain.load_state_dict(model.state_dict())
    parts = ids[: sum(LENGTHS)].split(LENGTHS)
    padded = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(p) for p in parts], batch_first=True)
    reference = plain.bert(input_ids=padded, attention_mask=mask).last_hidden_state
    for row, (start, length) in enumerate(zip(cu_seqlens.tolist(), LENGTHS, strict=False)):
        torch.testing.assert_close(
            packed[start : start + length], reference[row, :length], atol=1e-5, rtol=1e-5
        )


def test_under_autocast_the_strip_stays_in_half_precision(
    folder: Path, tokenizer: TextTokenizer
) -> None:
    model = load_encoder(tiny_encoder(folder), tokenizer).eval()
    ids, position_ids, cu_seqlens = strip(tokenizer)
    exact = encode_strip(model.bert, ids, position_ids, cu_seqlens, max(LENGTHS))
    between = []
    for layer in model.bert.encoder.layer:
        for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm):
            norm.register_forward_hook(lambda _, given, made: between.append((*given, made)))
    with torch.autocast("cpu", torch.bfloat16):
        found = encode_strip(model.bert, ids, position_ids, cu_seqlens, max(LENGTHS))
        # What autocast does to a norm on CUDA only.
        assert {part.dtype for parts in between for part in parts} == {torch.bfloat16}
    assert len(between) == 2 * len(model.bert.encoder.layer)
    torch.testing.assert_close(found.float(), exact, atol=5e-2, rtol=5e-2)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_the_low_precision_norm_is_a_plain_norm_in_float32() -> None:
    torch.manual_seed(0)
    plain, ours = nn.LayerNorm(16), LowPrecisionLayerNorm(16)
    nn.init.normal_(plain.weight), nn.init.normal_(plain.bias)
    ours.load_state_dict(plain.state_dict())
    given = 3 + 5 * torch.randn(40, 16)
    assert torch.equal(ours(given), plain(given))
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(given.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), plain(given.bfloat16().float()), atol=3e-2, rtol=2e-2)


def test_documents_of_a_strip_do_not_see_each_other(folder: Path, tokenizer: TextTokenizer) -> None:
    model = load_encoder(tiny_encoder(folder), tokenizer).eval()
    ids, position_ids, cu_seqlens = strip(tokenizer)
    before = encode_strip(model.bert, ids, position_ids, cu_seqlens, max(LENGTHS))
    changed = ids.clone()
    changed[: LENGTHS[0]] = 6
    after = encode_strip(model.bert, changed, position_ids, cu_seqlens, max(LENGTHS))
    assert not torch.equal(before[: LENGTHS[0]], after[: LENGTHS[0]])
    assert torch.equal(before[LENGTHS[0] : sum(LENGTHS)], after[LENGTHS[0] : sum(LENGTHS)])


def test_an_exported_encoder_is_a_plain_bert(
    folder: Path, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    model = load_encoder(tiny_encoder(folder), tokenizer).eval()
    model.save_pretrained(tmp_path)
    plain = AutoModelForMaskedLM.from_pretrained(tmp_path, local_files_only=True).eval()
    ids, position_ids, cu_seqlens = strip(tokenizer)
    ours = model.cls(encode_strip(model.bert, ids, position_ids, cu_seqlens, max(LENGTHS)))
    theirs = plain(input_ids=ids[None, : LENGTHS[0]]).logits[0]
    torch.testing.assert_close(ours[: LENGTHS[0]], theirs, atol=1e-5, rtol=1e-5)
    again = load_encoder(EncoderConfig(path=str(tmp_path)), tokenizer)
    assert all(
        torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items()
    )


def test_harmless_flags_of_transformers_are_accepted(tmp_path: Path) -> None:
    harmless = {
        "_attn_implementation_autoset": True,
        "_attn_implementation": "eager",
        "attn_implementation": "sdpa",
        "auto_map": {},
        "inner": {"trust_remote_code": False, "_attn_implementation": None},
    }
    (tmp_path / "config.json").write_text(json.dumps(harmless))
    refuse_code(tmp_path)
    harmful = harmless | {"inner": {"trust_remote_code": True}}
    (tmp_path / "config.json").write_text(json.dumps(harmful))
    with pytest.raises(ValueError, match="trust_remote_code"):
        refuse_code(tmp_path)


CODE = [
    ("config.json", {"auto_map": {"AutoConfig": "evil.C"}}, "auto_map"),
    (
        "config.json",
        {"text": [{"custom_pipelines": {"a": {"impl": "evil.P"}}}]},
        "custom_pipelines",
    ),
    ("config.json", {"_attn_implementation": "somebody/kernel"}, "_attn_implementation"),
    ("config.json", {"text": {"attn_implementation": "somebody/kernel"}}, "attn_implementation"),
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}, "auto_map"),
    ("tokenizer_config.json", {"a": {"b": {"trust_remote_code": True}}}, "trust_remote_code"),
]


@pytest.mark.parametrize(("name", "told", "key"), CODE)
def test_a_folder_that_names_code_is_refused_before_it_is_read(
    folder: Path, tokenizer: TextTokenizer, tmp_path: Path, name: str, told: dict, key: str
) -> None:
    load_encoder(tiny_encoder(folder), tokenizer).save_pretrained(tmp_path)
    copy_tokenizer(folder, tmp_path)
    path, canary = tmp_path / name, tmp_path / "canary"
    path.write_text(json.dumps(json.loads(path.read_text()) | told))
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nC = T = object\n")
    readers = [
        lambda: load_tokenizer(tmp_path),
        lambda: copy_tokenizer(tmp_path, tmp_path / "copied"),
        lambda: load_encoder(EncoderConfig(path=str(tmp_path)), tokenizer),
        lambda: check_length(EncoderConfig(path=str(tmp_path)), 1),
    ]
    for reader in readers:
        with pytest.raises(ValueError, match=rf"{name}: the key '{key}' .* remove the key"):
            reader()
    assert not canary.exists()


def test_a_broken_json_file_is_named(folder: Path, tmp_path: Path) -> None:
    copy_tokenizer(folder, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: not readable as JSON"):
        load_tokenizer(tmp_path)


class Evil:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.canary),)


def test_pickled_weights_are_refused_with_a_command_that_converts_them(
    folder: Path, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    model, canary = load_encoder(tiny_encoder(folder), tokenizer), tmp_path / "canary"
    model.config.save_pretrained(tmp_path)
    torch.save(Evil(canary), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pytorch_model.bin"):
        load_encoder(EncoderConfig(path=str(tmp_path)), tokenizer)
    with pytest.raises(ValueError, match="pytorch_model.bin"):  # asked before any rank
        check_length(EncoderConfig(path=str(tmp_path)), 1)
    assert not canary.exists()

    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="convert it") as refused:
        load_encoder(EncoderConfig(path=str(tmp_path)), tokenizer)
    (line,) = re.findall(r'python -c "(.*)"', str(refused.value))
    exec(compile(line, "remedy", "exec"), {})
    again = load_encoder(EncoderConfig(path=str(tmp_path)), tokenizer).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_other_models_than_bert_are_refused(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="config.json"):
        load_encoder(EncoderConfig(path=str(tmp_path)), tokenizer)
    (tmp_path / "config.json").write_text('{"model_type": "roberta", "vocab_size": 1000}')
    with pytest.raises(ValueError, match="roberta"):
        load_encoder(EncoderConfig(path=str(tmp_path)), tokenizer)


def test_a_tokenizer_of_another_checkpoint_is_refused(
    folder: Path, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    BertForMaskedLM(
        BertConfig(
            vocab_size=50,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
        )
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="another checkpoint"):
        load_encoder(EncoderConfig(path=str(tmp_path)), tokenizer)
