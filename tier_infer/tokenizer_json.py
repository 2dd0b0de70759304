"""A bundle's tokenizer.json: what it may ask of the library that runs it, and the calls there.

The library is trusting: replacements that feed each other grow a word until the process dies of
memory, patterns run for hours, and a cut or random splits change a sentence without a word. So only
what the two tokenizers of `tier-export` are made of is handed over, and written anew, so that a key
that stands twice can't mean one thing here and another there.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from tier_infer.errors import IntegrityError

MAX_BYTES = 2**24  # four times CLIP's
MAX_PARTS = 32  # of a normalizer; CLIP's has 17
MAX_MARKS = 16  # [CLS] and the like; BERT's has 5
MAX_WORD = 100  # letters that WordPiece splits; its time is their cube
MAX_AFFIX = 8  # letters of ## or </w>
MAX_LETTERS = 3  # that one letter becomes: the ligature of f, f and i
SPACES = {"Regex": r"\s+"}
CLIP_WORDS = {
    "Regex": r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
}


def checked_tokenizer(data: bytes) -> str:
    """The JSON to parse; IntegrityError for what `tier-export` does not write."""
    if len(data) > MAX_BYTES:
        raise IntegrityError(
            f"the bundle's tokenizer has {len(data)} bytes, at most {MAX_BYTES} are read"
        )
    try:
        table: dict[str, Any] = json.loads(data)
        wrong = [part for part, is_known in PARTS.items() if not is_known(table[part])]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise IntegrityError("the bundle's tokenizer is not one; export the bundle again") from None
    wrong += sorted(table.keys() - PARTS)
    if wrong:
        raise IntegrityError(
            f"the bundle's tokenizer has a {wrong[0]} of a kind that tier-export does not write; "
            "export the bundle again"
        )
    return json.dumps(table)


def in_rust(call: Callable[[], Any]) -> Any:
    """The library raises bare exceptions, and its panics are not even that."""
    try:
        with _silent():
            return call()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        raise IntegrityError("the bundle's tokenizer is not one; export the bundle again") from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """A panic writes to the process's own stderr, of what the file says."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _is_nothing(row: object) -> bool:
    return row is None


def _is_version(row: object) -> bool:
    return row == "1.0"


def _are_marks(rows: Any) -> bool:
    return isinstance(rows, list) and len(rows) <= MAX_MARKS


def _is_normalizer(row: dict[str, Any]) -> bool:
    rows = row["normalizers"] if row["type"] == "Sequence" else [row]
    return len(rows) <= MAX_PARTS and all(map(_is_plain, rows))


def _is_plain(row: dict[str, Any]) -> bool:
    """A replacement makes ASCII of one letter that is none: no other can take up its result."""
    if row["type"] != "Replace":
        return row["type"] in ("BertNormalizer", "NFC", "Lowercase")
    pattern, content = row["pattern"], row["content"]
    if pattern == SPACES:
        return bool(content == " ")
    letter = pattern.get("String", "")
    is_odd = len(letter) == 1 and not letter.isascii()
    return is_odd and content.isascii() and len(content) <= MAX_LETTERS


def _is_splitter(row: dict[str, Any]) -> bool:
    rows = row["pretokenizers"] if row["type"] == "Sequence" else [row]
    kinds = [part["type"] for part in rows]
    splits = [part["pattern"] for part in rows if part["type"] == "Split"]
    return kinds in (["BertPreTokenizer"], ["Split", "ByteLevel"]) and splits in ([], [CLIP_WORDS])


def _is_frame(row: dict[str, Any]) -> bool:
    """Marks around the sentence, which stands there once."""
    if row["type"] == "RobertaProcessing":
        return True
    kinds = [[*piece] for piece in row["single"][:4]]
    frame = [["SpecialToken"], ["Sequence"], ["SpecialToken"]]
    return row["type"] == "TemplateProcessing" and kinds == frame and len(row["pair"]) <= 2 * 3


def _is_decoder(row: dict[str, Any]) -> bool:
    """Nothing is ever decoded, but the library builds it."""
    return row["type"] in ("WordPiece", "ByteLevel")


def _is_model(row: dict[str, Any]) -> bool:
    affixes = [row.get("continuing_subword_prefix"), row.get("end_of_word_suffix")]
    if any(len(affix or "") > MAX_AFFIX for affix in affixes):
        return False
    if row["type"] == "WordPiece":
        return 0 < int(row["max_input_chars_per_word"]) <= MAX_WORD
    return row["type"] == "BPE" and row["dropout"] is None  # else the pieces would be drawn by lot


PARTS: dict[str, Callable[[Any], bool]] = {
    "version": _is_version,
    "truncation": _is_nothing,
    "padding": _is_nothing,
    "added_tokens": _are_marks,
    "normalizer": _is_normalizer,
    "pre_tokenizer": _is_splitter,
    "post_processor": _is_frame,
    "decoder": _is_decoder,
    "model": _is_model,
}
