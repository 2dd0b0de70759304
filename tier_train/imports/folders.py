"""Published folders of text encoders: config.json, vocab.txt, tokenizer_config.json and weights.

Read by ourselves: the folder of CXR-BERT also holds code, which transformers would have to run.
"""

from __future__ import annotations

import gzip
import json
import os
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tier_infer.errors import IntegrityError, UsageError
from tier_train.checkpoint import shown
from tier_train.imports.keymaps import CXR_BERT, convert
from tier_train.imports.weights import load_safetensors, load_table, plain_state
from tier_train.recipe import Recipe, recipe_from
from tier_train.towers.clip_text import BYTES, clip_letters
from tier_train.towers.text_encoder import TextEncoder
from tier_train.towers.wordpiece import SPECIAL, WordPiece

MAX_BYTES = 2**24  # of a vocabulary or a config
# What our BERT has fixed, and so must the folder.
FIXED = {
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
HEAD = 64  # width of an attention head in BERT-base


def cxr_bert_weights(folder: Path) -> Path:
    """The file of the weights; of two, the one that cannot hold a pickle."""
    safe = folder / "model.safetensors"
    return safe if safe.is_file() else folder / "pytorch_model.bin"


def read_cxr_bert(
    folder: Path, max_tokens: int
) -> tuple[dict[str, Any], dict[str, Tensor], WordPiece]:
    """Recipe keys of its sizes, its weights as text.* and text_head.*, its tokenizer.

    Raises UsageError for a file that is not there, IntegrityError for one that does not fit.
    """
    sizes = _sizes(folder)
    tokenizer = read_vocabulary(folder, max_tokens)
    if tokenizer.vocab_size != sizes["vocab_size"]:
        raise IntegrityError(
            f"{folder / 'vocab.txt'} has {tokenizer.vocab_size} pieces, config.json says "
            f"{sizes['vocab_size']}"
        )
    weights = cxr_bert_weights(folder)
    table = load_safetensors(weights) if weights.suffix == ".safetensors" else load_table(weights)
    expected = text_shapes(recipe_from(sizes), sizes["vocab_size"])
    words = convert(weights, plain_state(weights, table), CXR_BERT, expected)
    return sizes, words, tokenizer


def text_shapes(recipe: Recipe, vocab_size: int) -> dict[str, torch.Size]:
    """Our keys and shapes of a CXR-BERT of this size; no memory is taken for them."""
    with torch.device("meta"):
        tower = TextEncoder(recipe, vocab_size)
    return {key: value.shape for key, value in tower.state_dict().items()}


def read_vocabulary(
    folder: Path, max_tokens: int, default_lower_case: bool | None = None
) -> WordPiece:
    """vocab.txt, one piece a line, and the case rule of tokenizer_config.json.

    Without that rule half of the words would be unknown and nobody would see it: then
    `default_lower_case` holds, and where a source has none the folder is refused.
    """
    path = folder / "vocab.txt"
    pieces = _text(path).replace("\r\n", "\n").removesuffix("\n").split("\n")
    if fault := _fault(pieces):
        raise IntegrityError(f"{path} is no WordPiece vocabulary: {fault}")
    config = folder / "tokenizer_config.json"
    rules = _json(config) if os.path.lexists(config) or default_lower_case is None else {}
    lower_case = rules.get("do_lower_case", default_lower_case)
    if type(lower_case) is not bool:
        raise IntegrityError(f"{config} does not say whether text is lower-cased: do_lower_case")
    for key, usual in (
        *(("strip_accents", None), ("tokenize_chinese_chars", True)),
        *(("do_basic_tokenize", True), ("never_split", None)),
    ):
        if rules.get(key, usual) is not usual:
            raise _other(config, key, rules[key], usual)
    return WordPiece(pieces, max_tokens, lower_case)


def vocabulary_files(folder: Path) -> list[Path]:
    """What `read_vocabulary` reads of a folder."""
    files = (folder / "vocab.txt", folder / "tokenizer_config.json")
    return [path for path in files if path.is_file()]


def _fault(pieces: list[str]) -> str:
    missing = [piece for piece in SPECIAL if piece not in pieces]
    if missing:
        return f"it lacks {', '.join(missing)}"
    if pieces[0] != SPECIAL[0]:
        return f"its first piece is not {SPECIAL[0]}"  # BERT's padding is number 0
    if len(set(pieces)) != len(pieces):
        return "it has the same piece twice"
    for number, piece in enumerate(pieces, start=1):
        # BERT splits words at these, so that no such piece is ever found.
        blank = any(c in "\t\r\v\f" or unicodedata.category(c) == "Zs" for c in piece)
        if blank or not piece:
            return f"line {number} is blank or has a blank in it"
    return ""


def read_merges(path: Path, vocab_size: int) -> list[str]:
    """CLIP's bpe_simple_vocab_16e6.txt.gz: a title, then one merge "a b" a line, more than needed.

    The vocabulary is 256 bytes twice, the merges and two special tokens, so its size says how many
    merges the weights know.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}; CLIP's is bpe_simple_vocab_16e6.txt.gz")
    try:
        with gzip.open(path) as file:
            text = file.read(MAX_BYTES).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"{path} is not CLIP's gzipped list ({type(error).__name__})"
        ) from None
    title, _, rest = text.removesuffix("\n").partition("\n")
    if "version" not in title:  # without it every merge would move up by one
        raise IntegrityError(f"{path} is not CLIP's list: its first line names no version")
    merges = rest.split("\n")[: vocab_size - 2 * BYTES - 2]
    known = set(clip_letters())
    for number, merge in enumerate(merges, start=2):
        if merge.count(" ") != 1 or not known.issuperset(merge.split(" ")):
            raise IntegrityError(f"{path}, line {number}: not a merge of two pieces above it")
        known.add(merge.replace(" ", ""))
    if len(known) + 2 != vocab_size:
        raise IntegrityError(
            f"{path} makes a vocabulary of {len(known) + 2} pieces, the weights have {vocab_size}"
        )
    return merges


def _sizes(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = _json(path)
    for key, fixed in FIXED.items():
        if config.get(key, fixed) != fixed:
            raise _other(path, key, config[key], fixed)
    keys = {
        "embed_dim": "projection_size",
        "text_width": "hidden_size",
        "text_layers": "num_hidden_layers",
        "text_heads": "num_attention_heads",
        "text_inner": "intermediate_size",
        "text_dropout": "hidden_dropout_prob",
        "vocab_size": "vocab_size",
    }
    absent = [theirs for theirs in keys.values() if theirs not in config]
    if absent:
        raise IntegrityError(f"{path} is not CXR-BERT's: it lacks {', '.join(absent)}")
    sizes = {ours: config[theirs] for ours, theirs in keys.items()}
    if config.get("attention_probs_dropout_prob", sizes["text_dropout"]) != sizes["text_dropout"]:
        raise IntegrityError(f"{path}: its two dropout rates differ, only one is read here")
    try:
        recipe_from(sizes)
    except UsageError as error:
        raise IntegrityError(f"{path}: {error}") from None
    if sizes["text_inner"] < 1:  # which in a recipe means four times the width
        raise IntegrityError(f"{path}: intermediate_size is {sizes['text_inner']}")
    if sizes["text_width"] != HEAD * sizes["text_heads"]:  # the weights do not show it
        raise _other(path, "num_attention_heads", sizes["text_heads"], sizes["text_width"] // HEAD)
    return sizes


def _other(path: Path, key: str, found: object, usual: object) -> IntegrityError:
    return IntegrityError(f"{path}: {key} is {shown(repr(found))}, only {usual!r} is read here")


def _json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is not JSON ({type(error).__name__})") from None
    if not isinstance(table, dict):
        raise IntegrityError(f"{path} is not a JSON object")
    return table


def _text(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise IntegrityError(f"{path} is no regular file")
    if not path.is_file():
        raise UsageError(f"there is no {path}; name the published folder that holds {path.name}")
    if path.stat().st_size > MAX_BYTES:
        raise IntegrityError(f"{path} is larger than any {path.name} that is published")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise IntegrityError(f"{path} is not UTF-8 text") from None
