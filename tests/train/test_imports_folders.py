"""python -m pytest tests/train/test_imports_folders.py -- text folders, merges and the command."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from tests.train import layouts
from tier_infer.errors import IntegrityError, TierError, UsageError
from tier_train.cli import main
from tier_train.imports import text_start
from tier_train.imports.folders import read_merges, read_vocabulary
from tier_train.imports.sources import SOURCES

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _hollow(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.let_hollow_in(monkeypatch)


def test_cxr_bert_of_other_libraries_is_whole(tmp_path: Path) -> None:
    """Older files carry the places and no bias of the decoder; safetensors no tied weight."""
    state = layouts.hollow("cxr-bert")
    del state["cls.predictions.decoder.bias"], state["cls.predictions.decoder.weight"]
    state["bert.embeddings.position_ids"] = torch.arange(512)[None]
    folder = layouts.write_cxr_bert(tmp_path, state)
    assert len(text_start(folder)[1]) == 203
    for key in ("cls.predictions.bias", "bert.embeddings.LayerNorm.weight"):
        broken = {k: v for k, v in state.items() if k != key}
        with pytest.raises(IntegrityError, match=key):
            text_start(layouts.write_cxr_bert(tmp_path, broken))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps"),
        ({"max_position_embeddings": 256}, "max_position_embeddings"),
        ({"attention_probs_dropout_prob": 0.0}, "dropout"),
        ({"num_hidden_layers": 11}, r"16 unknown \(bert.encoder.layer.11"),
        ({"num_hidden_layers": "12"}, "text_layers must be int"),
        ({"num_attention_heads": 7}, "multiple of text_heads"),
        ({"projection_size": 64}, "does not fit"),
        ({"vocab_size": 30521}, "vocab.txt has 30522 pieces"),
        ({"intermediate_size": 10**9}, "text_inner"),
        ({"intermediate_size": 0}, "intermediate_size is 0"),
        ({"num_attention_heads": 6}, "num_attention_heads is 6, only 12"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"hidden_act": "\x1b[2J" + "x" * 10**5}, r"hidden_act is '\\x1b.{74}…, only"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    change: dict[str, object], words: str, tmp_path: Path
) -> None:
    folder = layouts.write_cxr_bert(tmp_path, layouts.hollow("cxr-bert"), **change)
    with pytest.raises(IntegrityError, match=words):
        text_start(folder)


@pytest.mark.parametrize(
    ("name", "content", "kind", "words"),
    [
        ("config.json", None, UsageError, "there is no .*config.json"),
        ("config.json", "{", IntegrityError, "not JSON"),
        ("config.json", "[]", IntegrityError, "not a JSON object"),
        ("config.json", "{}", IntegrityError, "it lacks projection_size"),
        ("config.json", "[" * 100000, IntegrityError, "not JSON"),
        ("vocab.txt", None, UsageError, "there is no .*vocab.txt"),
        ("vocab.txt", "a\nb\n", IntegrityError, r"lacks \[PAD\]"),
        ("vocab.txt", "\n".join(layouts.vocabulary(200)) + "\n[PAD]", IntegrityError, "twice"),
        ("vocab.txt", b"\xff\xfe", IntegrityError, "not UTF-8"),
        ("vocab.txt", "\n".join(layouts.vocabulary(200)[::-1]), IntegrityError,
         r"first piece is not \[PAD\]"),
        ("vocab.txt", "\n".join(layouts.vocabulary(200)) + "\n\n", IntegrityError, "line 254 is b"),
        ("vocab.txt", "\n".join(layouts.vocabulary(200)) + "\nno \n", IntegrityError, "line 254"),
        ("vocab.txt", "\n".join(layouts.vocabulary(200)) + "\na\xa0b", IntegrityError, "line 254"),
        ("config.json", '{"hidden_size": ' + "9" * 5000 + "}", IntegrityError, "not JSON"),
        ("tokenizer_config.json", '{"do_lower_case": true, "do_basic_tokenize": false}',
         IntegrityError, "do_basic_tokenize is False"),
        ("tokenizer_config.json", '{"do_lower_case": true, "never_split": ["edema"]}',
         IntegrityError, "never_split"),
        ("tokenizer_config.json", None, UsageError, "there is no .*tokenizer_config.json"),
        ("tokenizer_config.json", "{}", IntegrityError, "do_lower_case"),
        ("tokenizer_config.json", '{"do_lower_case": 1}', IntegrityError, "do_lower_case"),
        ("tokenizer_config.json", '{"do_lower_case": true, "strip_accents": false}',
         IntegrityError, "strip_accents"),
        ("pytorch_model.bin", None, UsageError, "there is no file .*pytorch_model.bin"),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}", IntegrityError, "safetensors"),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_whole_is_refused(
    name: str, content: str | bytes | None, kind: type[TierError], words: str, tmp_path: Path
) -> None:
    folder = layouts.write_cxr_bert(tmp_path, layouts.hollow("cxr-bert"))
    path = folder / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(kind, match=words):
        text_start(folder)


def test_the_case_rule_is_read(tmp_path: Path) -> None:
    for rule, first in ((True, "edema"), (False, "[UNK]")):
        folder = layouts.write_vocabulary(tmp_path, 400, lower_case=rule)
        tokenizer = read_vocabulary(folder, 77)
        assert tokenizer.vocab[tokenizer.uncut("EDEMA")[1]] == first
    (tmp_path / "tokenizer_config.json").unlink()
    assert read_vocabulary(tmp_path, 77, default_lower_case=True).lower_case


def test_a_case_rule_that_is_no_file_is_refused(tmp_path: Path) -> None:
    """Also where a source has a rule of its own, which must not stand in for what is there."""
    folder = layouts.write_vocabulary(tmp_path, 400)
    (folder / "tokenizer_config.json").mkdir()
    with pytest.raises(IntegrityError, match="no regular file"):
        read_vocabulary(folder, 77, default_lower_case=True)
    (folder / "tokenizer_config.json").rmdir()
    os.mkfifo(folder / "tokenizer_config.json")
    with pytest.raises(IntegrityError, match="no regular file"):
        read_vocabulary(folder, 77, default_lower_case=True)


def test_safetensors_are_preferred(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = layouts.write_cxr_bert(tmp_path, {"x": torch.zeros(1)})
    state = layouts.hollow("cxr-bert")
    del state["cls.predictions.decoder.bias"], state["cls.predictions.decoder.weight"]
    save_file(
        {key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors"
    )
    assert len(text_start(folder)[1]) == 203
    (folder / "model.safetensors").unlink()


def test_the_vocabulary_must_be_that_of_the_weights(tmp_path: Path) -> None:
    files = layouts.write_source("medclip", tmp_path, layouts.hollow("medclip"))
    layouts.write_vocabulary(files[1], 30522)
    with pytest.raises(IntegrityError, match="30522 pieces, the weights know 28996"):
        SOURCES["medclip"](*files)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not gzip", "not CLIP's gzipped list"),
        (gzip.compress(b"#version: 0\nh e\n")[:-9], "not CLIP's gzipped list"),
        (gzip.compress(b"\xff"), "not CLIP's gzipped list"),
        (gzip.compress(b"#version: 0\nh e\n"), "a vocabulary of 515 pieces, the weights have 520"),
        (gzip.compress(b"#version: 0\nh e\nhe llo\n"), "line 3: not a merge"),
        (gzip.compress(b"#version: 0\nh  e\n"), "line 2: not a merge"),
        (gzip.compress(b"#version: 0\n" + b"h e\n" * 6), "a vocabulary of 515 pieces"),
        (gzip.compress(b"h e\nhe l\nhel l\nhell o\nl o\nlo h\nt i\n"), "names no version"),
    ],
    ids=["other", "cut", "binary", "short", "no piece", "two blanks", "repeated", "untitled"],
)
def test_merges_that_do_not_fit_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bpe.txt.gz"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=words):
        read_merges(path, 520)


def test_merges_beyond_the_vocabulary_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "bpe.txt.gz"
    path.write_bytes(gzip.compress(b"#version: 0\nh e\nhe l</w>\nno merge at all\n"))
    assert read_merges(path, 516) == ["h e", "he l</w>"]
    with pytest.raises(UsageError, match="bpe_simple_vocab_16e6"):
        read_merges(tmp_path / "absent", 516)


def _refused(result: Result) -> str:
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert result.stdout == ""
    return result.stderr


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["biovil", "image.pt"], 2, "takes biovil_image_resnet50_proj_size_128.pt CXR_BERT_FOLDER"),
        (["biovil", "image.pt", "no"], 2, "there is no no"),
        (["biovil", "image.pt", "image.pt"], 2, "image.pt is no folder"),
        (["biovil", "words", "words"], 2, "words is no file"),
        (["chexzero", "image.pt", "words"], 2, "words is no file"),
        (["nope", "image.pt"], 2, "torchvision"),
        (["torchvision", "image.pt", "-o", "image.pt"], 2, "one of the files to read"),
        (["torchvision", "image.pt"], 4, "weights are 267 missing"),
        (["medclip", "image.pt", "words"], 4, "missing or no weight"),
    ],
)
def test_the_command_says_what_it_takes(
    args: list[str], code: int, words: str, runner: CliRunner, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    torch.save({"a": torch.zeros(1)}, "image.pt")
    layouts.write_vocabulary(tmp_path / "words", 300)
    before = sorted(path.name for path in tmp_path.iterdir())
    result = runner.invoke(main, ["import", *args])
    assert result.exit_code == code
    assert words in _refused(result)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_help_names_every_source_and_its_files(runner: CliRunner) -> None:
    result = runner.invoke(main, ["import", "-h"])
    assert result.exit_code == 0
    for words in ("biovil-t", "CXR_BERT_FOLDER", "bpe_simple_vocab_16e6.txt.gz", "resnet50"):
        assert words in result.stdout
