"""Text towers → `text/encoder.onnx` and `text/tokenizer.json`, so that the edge can read sentences.

Proven before anything is written, through the runtime's own `Tower`: equal token ids, and PyTorch's
embeddings to 1e-4.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers
from torch import Tensor, nn

from tier_export import OPSET
from tier_export.graphs import quiet, strip
from tier_export.members import Members
from tier_infer.bundle import NOTICE, sha256
from tier_infer.errors import ParityError
from tier_infer.label_sets import FOLDER, load_label_set
from tier_infer.sentences import Tower, has_references
from tier_train.checkpoint import Checkpoint
from tier_train.towers.clip_text import PLAIN, ClipTokenizer
from tier_train.towers.text_encoder import TextTower, Tokenizer, embed_prompts

GATE = 1e-4  # per component of an embedding
COUNT = 100  # of the packaged sets' sentences, at least, where the tower reads so many
FEWEST = 20  # sentences that prove something


class TextEncoderGraph(nn.Module):
    """ids, mask: int64 [N, T] → text_embedding: float32 [N, D], unit norm."""

    def __init__(self, words: TextTower) -> None:
        super().__init__()
        self.words = words

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.words.sentence_e(ids, mask)


def text_files(
    members: Members, sentences: Sequence[str], opset: int = OPSET
) -> tuple[dict[str, bytes], dict[str, Any], dict[str, Any]]:
    """path → bytes, the manifest's `text`, and facts for the certificate.

    `sentences` are those of the bundle's label sets: the gate asks them beside others. ParityError.
    """
    files: dict[str, bytes] = {}
    towers: list[dict[str, Any]] = []
    worst, counts = 0.0, []
    for number, network in enumerate(members.networks, 1):
        suffix = "" if number == 1 else f"_{number}"
        asked = gate_sentences(network.tokenizer, sentences)
        if len(asked) < FEWEST:
            raise ParityError(
                f"the text tower reads {len(asked)} of the sentences to prove it by, {FEWEST} are "
                "needed; export without --text"
            )
        encoder, words = f"text/encoder{suffix}.onnx", f"text/tokenizer{suffix}.json"
        files[encoder] = text_graph(network, opset).SerializeToString()
        files[words] = tokenizer_file(network.tokenizer)
        row = {"encoder": encoder, "tokenizer": words, "max_tokens": network.tokenizer.max_tokens}
        towers.append(row | {"sha256": network.text_sha256})
        tower = Tower(files[encoder], files[words], network.tokenizer.max_tokens)
        worst = max(worst, prove_text(network, tower, asked))
        counts.append(len(asked))
    entries = {path: {"sha256": sha256(data), "bytes": len(data)} for path, data in files.items()}
    text = {"sha256": members.text_sha256, "towers": towers, "files": entries}
    return files, text, {"sentences": min(counts), "max_dembedding": worst, "allowed": GATE}


def text_graph(network: Checkpoint, opset: int = OPSET) -> onnx.ModelProto:
    """One file, N and T dynamic, T at most the tower's max_tokens; equal weights, equal bytes."""
    wrapper = TextEncoderGraph(network.model.words).eval()
    ids = torch.zeros(2, min(8, network.tokenizer.max_tokens), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, -1] = 0  # of ones alone transformers makes no mask, and the graph would have none
    both = {0: "N", 1: "T"}
    with quiet():
        program = torch.onnx.export(
            wrapper,
            (ids, mask),
            dynamo=True,
            opset_version=opset,
            input_names=["ids", "mask"],
            output_names=["text_embedding"],
            dynamic_shapes={"ids": both, "mask": both},
            external_data=False,
            verbose=False,
        )
    assert program is not None  # dynamo=True always returns one
    graph = strip(program.model_proto)
    found = {o.domain: o.version for o in graph.opset_import}.get("")
    if found != opset:  # torch falls back to another opset without an error
        raise RuntimeError(f"torch exported opset {found}, {opset} was asked for")
    meta = {"text_sha256": network.text_sha256, "max_tokens": str(network.tokenizer.max_tokens)}
    helper.set_model_props(graph, meta | {"notice": NOTICE})
    onnx.checker.check_model(graph, full_check=True)
    return graph


def tokenizer_file(tokenizer: Tokenizer) -> bytes:
    """tokenizer.json of Hugging Face's library: neither cut nor padded."""
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    if isinstance(tokenizer, ClipTokenizer):  # it cleans before its backend sees the sentence
        plain = [normalizers.Replace(chr(code), letters) for code, letters in PLAIN.items()]
        backend.normalizer = normalizers.Sequence([*plain, backend.normalizer])
    data: bytes = backend.to_str().encode()
    return data


def gate_sentences(tokenizer: Tokenizer, given: Sequence[str]) -> list[str]:
    """Those given and a hundred or more of the packaged label sets, each once.

    Only what this tower reads whole, and no HTML's character references: the edge refuses them.
    """

    def is_read(sentence: str) -> bool:
        whole = len(tokenizer.uncut(sentence)) <= tokenizer.max_tokens
        return whole and tokenizer.can_read(sentence) and not has_references(sentence)

    sets = [load_label_set(path.stem) for path in sorted(FOLDER.glob("*.toml"))]
    labels = itertools.chain.from_iterable(s.labels for s in sets)
    packaged = dict.fromkeys(p for label in labels for p in (*label.positive, *label.negative))
    usable = [sentence for sentence in packaged if is_read(sentence)]
    spread = usable[:: max(1, len(usable) // COUNT)]
    return list(dict.fromkeys([*filter(is_read, given), *spread]))


def prove_text(network: Checkpoint, tower: Tower, sentences: Sequence[str]) -> float:
    """The largest difference of an embedding's component to PyTorch; ParityError above GATE."""
    worst = 0.0
    for sentence in sentences:
        ids, wanted = tower.uncut(sentence), network.tokenizer.uncut(sentence)
        if ids != wanted:
            raise ParityError(
                f"text tower: the exported tokenizer reads {sentence!r} as {ids}, PyTorch's as "
                f"{wanted}; they must be equal"
            )
        exact = embed_prompts(network.model.words, network.tokenizer, [sentence])[0].numpy()
        difference = float(np.abs(tower.embed(sentence) - exact).max())
        if not difference <= GATE:
            raise ParityError(
                f"text tower: the embedding of {sentence!r} differs by {difference:.3g}, allowed "
                f"{GATE:g}"
            )
        worst = max(worst, difference)
    return worst
