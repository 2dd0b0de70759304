"""Sentences typed at the edge: the bundle's text towers turn them into a direction, without torch.

q is made as eq. 3 and 4 of TIER say, of embeddings from the exported towers; each sentence goes
through a tower alone, so that its embedding does not depend on its neighbours. A sentence that a
tower would read as something else than its words is refused.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tier_infer.bundle import Bundle, sha256
from tier_infer.embeddings import Embeddings
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.pooling import Pool
from tier_infer.scoring import Selection
from tier_infer.sessions import open_session
from tier_infer.tokenizer_json import checked_tokenizer, in_rust

Floats = NDArray[np.float32]
NAME = "query"  # the column of the sentences' score
TABLE = "--query"  # its place beside the label sets; none of them can be called so
SHOWN = 60  # characters of a sentence that a message repeats
WORD = re.compile(r"[^\W\d_]{3,}")
# |q⁺ − q⁻|, which |Z| can't exceed, where q⁺ and q⁻ have a cosine of 0.98. In networks trained on
# phantoms the paper's findings have 0.45 to 1.08, words that no training caption holds 0.05 to 0.2.
SHORT = 0.2


class Tower:
    """One exported text tower and its tokenizer. `uncut`, `can_read` and `max_tokens` are what
    `tier_export.queries.Reads` asks for."""

    def __init__(self, encoder: bytes, tokenizer: bytes, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._tokenizer = _tokenizer(tokenizer)
        self._marks = set(self._tokenizer.get_added_tokens_decoder())  # [CLS], [UNK] and the like
        self._session = open_session(encoder, "cpu")
        found = {
            row.name: row for row in (*self._session.get_inputs(), *self._session.get_outputs())
        }
        if set(found) != {"ids", "mask", "text_embedding"}:
            raise IntegrityError(
                f"a text tower has inputs and outputs {', '.join(found)}, not ids, mask and "
                "text_embedding; export the bundle again"
            )
        self.embed_dim = found["text_embedding"].shape[-1]
        meta: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.text_sha256 = meta.get("text_sha256", "")
        if meta.get("max_tokens") != str(max_tokens):
            raise IntegrityError(
                f"a text tower reads {meta.get('max_tokens')} tokens, the manifest says "
                f"{max_tokens}; export the bundle again"
            )

    def uncut(self, sentence: str) -> list[int]:
        """All ids of one sentence, those around it included, however long."""
        return self._ids(sentence, marks=True)

    def can_read(self, sentence: str) -> bool:
        """Whether its words, and nothing else, become ids; its length is another question."""
        return not self._unreadable(sentence)

    def embed(self, sentence: str) -> Floats:
        """float32 [D], unit norm; UsageError where it can't be read whole."""
        reason = self._unreadable(sentence)
        if reason:
            raise UsageError(f"the sentence {_shown(sentence)} {reason}")
        ids = np.array([self.uncut(sentence)], np.int64)  # [1, T]
        if ids.shape[1] > self.max_tokens:
            raise UsageError(
                f"the sentence {_shown(sentence)} has {ids.shape[1]} tokens, the text tower reads "
                f"{self.max_tokens}; make it shorter, or two sentences"
            )
        try:
            row: Floats = self._session.run(None, {"ids": ids, "mask": np.ones_like(ids)})[0][0]
        except Exception as error:  # onnxruntime raises bare pybind classes
            raise IntegrityError(f"the text tower can't run on its tokens: {error}") from None
        if not abs(float(np.linalg.norm(row)) - 1) < 1e-3:  # NaN is none either
            raise IntegrityError("the text tower gives no unit vectors; export the bundle again")
        return row

    def _unreadable(self, sentence: str) -> str:
        """What is wrong with it, as the rest of a sentence; "" for nothing."""
        if has_references(sentence):
            return "holds an HTML character reference; write the character itself"
        if any("\ud800" <= letter <= "\udfff" for letter in sentence):
            return "is not valid text: bytes of it are no UTF-8"
        ids = self._ids(sentence, marks=False)
        if not ids:
            return "says nothing; write words, such as 'Edema is present.'"
        marks = [self._tokenizer.id_to_token(i) for i in ids if i in self._marks]
        typed = [mark for mark in marks if mark in sentence]
        if typed:
            return f"holds {typed[0]}, a mark of the tokenizer and no word; leave it out"
        if marks:
            return (
                "has parts for which the vocabulary of this bundle has no letters; write it in the "
                "language of the training text"
            )
        return ""

    def _ids(self, sentence: str, marks: bool) -> list[int]:
        encoded = in_rust(lambda: self._tokenizer.encode(sentence, add_special_tokens=marks))
        return [int(i) for i in encoded.ids]


class Splits(Protocol):
    """A tokenizer, PyTorch's or an exported one."""

    def uncut(self, sentence: str) -> list[int]: ...


class Words:
    """The text towers of a bundle, in the order of its checkpoints."""

    def __init__(self, bundle: Bundle) -> None:
        self.manifest = bundle.manifest
        if not bundle.manifest.text_files:
            raise UsageError(
                "the bundle holds no text tower, so it knows its label sets only; export it again "
                "with `tier-export --text`"
            )
        try:
            rows = [(str(r["encoder"]), str(r["tokenizer"]), int(r["max_tokens"]))
                    for r in bundle.manifest.text["towers"]]  # fmt: skip
            named = [r["sha256"] for r in bundle.manifest.text["towers"]]
            files = [(bundle.text_file(a), bundle.text_file(b), most) for a, b, most in rows]
        except (KeyError, TypeError, ValueError):
            raise IntegrityError(
                "the manifest does not list its text towers as this version does; export the "
                "bundle again"
            ) from None
        self.towers = tuple(Tower(*row) for row in files)
        found = [tower.text_sha256 for tower in self.towers]
        if found != named or joined_sha256(found) != bundle.manifest.text_sha256:
            raise IntegrityError(
                "the text towers are not those of this bundle's label sets, or stand in another "
                "order; export the bundle again"
            )
        widths = [tower.embed_dim for tower in self.towers]
        dim = bundle.manifest.embed_dim
        if not all(isinstance(width, int) for width in widths) or sum(widths) != dim:
            raise IntegrityError(
                f"the text towers have {widths} dimensions, which must add up to the encoder's "
                f"{dim}; export the bundle again"
            )

    def query(self, positive: Sequence[str], negative: Sequence[str]) -> Floats:
        """float32 [D]: q⁺ − q⁻; q⁻ = 0 without negatives. K towers' are joined as embeddings are:
        one after the other, divided by √K."""
        parts = [_direction(tower, positive, negative) for tower in self.towers]
        q = np.concatenate(parts) * np.float32(len(parts) ** -0.5)
        if np.abs(q).max() < 1e-6:
            other = (negative or positive)[0]
            raise UsageError(
                f"{_shown(positive[0])} and {_shown(other)} mean the same to the text tower, so "
                "every image would score 0"
            )
        return q


@dataclass
class Asked:
    """A label made of sentences typed just now; a `scoring.Table`."""

    labels: list[dict[str, Any]]  # the only one
    direction: Floats  # [D]
    pool: Pool | None = None

    def image_scores(self, found: Embeddings) -> Floats:
        """float32 [N, 1]"""
        return self.cell_scores(found.image)

    def cell_scores(self, embeddings: Floats) -> Floats:
        """float32 [M, D] → float32 [M, 1], Z of eq. 4. Row by row, whatever M is."""
        z: Floats = (embeddings * self.direction).sum(-1, keepdims=True)
        return z


def with_sentences(
    selection: Selection | None, words: Words, positive: Sequence[str], negative: Sequence[str]
) -> Selection:
    """The labels of `selection`, then `query`."""
    manifest = words.manifest
    if NAME in manifest.label_sets[manifest.default_set]["labels"]:
        raise UsageError(
            f"the default set of this bundle has a label called {NAME}, which is what the score of "
            f"--query is called; ask for that label with --labels {NAME}, without --query"
        )
    label = {"id": NAME, "name": NAME, "names": {"und": NAME}, "codes": {}}  # in any language
    label |= {"positive": [*positive], "negative": [*negative]}
    asked = Asked([label], words.query(positive, negative))
    if selection is None:
        return Selection((NAME,), {TABLE: asked}, ((TABLE, 0),))
    return Selection(
        (*selection.names, NAME),
        {**selection.tables, TABLE: asked},
        (*selection.columns, (TABLE, 0)),
    )


def doubts(words: Words, positive: Sequence[str], negative: Sequence[str]) -> list[str]:
    """What to know of such a score, one line each; empty for a query like those of the paper."""
    asked = words_of(" ".join((*positive, *negative)))
    foreign = unknown_words(asked, words.towers)
    found = []
    if foreign:
        found.append(
            f"the text tower does not know {len(foreign)} of {len(asked)} words, "
            f"{', '.join(foreign[:3])}{', …' * (len(foreign) > 3)}; the score says little"
        )
    if not negative:
        found.append(
            "without --against the score is a plain cosine in [-1, 1]: compare it between images, "
            "not with the margins of labels"
        )
    elif (length := float(np.linalg.norm(words.query(positive, negative)))) <= SHORT:
        found.append(
            f"--query and --against mean nearly the same to the text tower, |Z| is at most "
            f"{length:.2f}"
        )
    return found


def words_of(text: str) -> list[str]:
    """Words of three letters and more, each once, in lower case."""
    return list(dict.fromkeys(WORD.findall(text.lower())))


def unknown_words(words: Iterable[str], readers: Sequence[Splits]) -> list[str]:
    """Those in pieces of less than two letters: training has not shown them to a text tower."""
    around = [len(reader.uncut("")) for reader in readers]

    def unknown(word: str) -> bool:
        counts = (len(r.uncut(word)) - n for r, n in zip(readers, around, strict=True))
        pieces = max(counts, default=0)
        return pieces >= 3 and len(word) < 2 * pieces

    return [word for word in words if unknown(word)]


def joined_sha256(towers: Sequence[str]) -> str:
    """Identity of an ensemble's text towers by that of each, in order; of one, its own."""
    return towers[0] if len(towers) == 1 else sha256("\n".join(towers).encode())


def has_references(sentence: str) -> bool:
    """Whether it holds HTML's `&amp;` or the like, which CLIP's own cleaning would resolve."""
    return html.unescape(sentence) != sentence


def _direction(tower: Tower, positive: Sequence[str], negative: Sequence[str]) -> Floats:
    """float32 [Dₖ]: q⁺ − q⁻ of one tower."""
    q = _mean(tower, positive)
    return q - _mean(tower, negative) if negative else q


def _mean(tower: Tower, sentences: Sequence[str]) -> Floats:
    """eq. 3: unit-norm embeddings, averaged, renormalised."""
    mean = np.stack([tower.embed(sentence) for sentence in sentences]).mean(0)
    unit: Floats = mean / np.sqrt(max((mean * mean).sum(), np.float32(1e-24)))
    return unit


def _tokenizer(data: bytes) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UsageError(
            "sentences need the extra that splits them; pip install 'tier-cxr[query]'"
        ) from None
    text = checked_tokenizer(data)
    return in_rust(lambda: tokenizers.Tokenizer.from_str(text))


def _shown(sentence: str) -> str:
    """As typed, between quotes; its beginning where it is long."""
    return repr(sentence if len(sentence) <= SHOWN else sentence[: SHOWN - 1] + "…")
