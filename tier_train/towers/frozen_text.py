"""What the frozen layers of a BERT say of every impression, computed once for a whole training.

Embeddings and the first layers keep their weights (TIER, section 3.1), so an impression leaves them
the same in every epoch; a step then starts at the first layer that learns. What this changes: the
released code leaves dropout on in the frozen layers, here they have none. The layers that learn
keep theirs. Kept as float16, 2 · width bytes per token: in a BERT-base of random weights that moved
an embedding by at most 0.0007 of its length, where dropout in the upper four layers moves it by 0.1
to 0.4.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tier_infer.errors import IntegrityError, UsageError
from tier_infer.files import sync_folder
from tier_train.towers.text_encoder import Tokenizer

AT_ONCE = 32  # impressions per pass
CHUNK = 1 << 24  # bytes
STORED = np.dtype("<f2")
ID = np.dtype("<i4")


def lower_layers(bert: nn.Module, ids: Tensor, mask: Tensor, count: int) -> Tensor:
    """ids, mask int64 [N, T] → hidden [N, T, W] after `count` layers, without dropout or graph."""
    was_training = bert.training
    bert.eval()
    try:
        with torch.no_grad():
            hidden: Tensor = bert.get_submodule("embeddings")(input_ids=ids)
            return _layers(bert, hidden, mask, slice(0, count))
    finally:
        bert.train(was_training)


def upper_layers(bert: nn.Module, hidden: Tensor, mask: Tensor, first: int) -> Tensor:
    """hidden [N, T, W] after `first` layers, mask [N, T] → the last hidden state [N, T, W]."""
    return _layers(bert, hidden, mask, slice(first, None))


def _layers(bert: nn.Module, hidden: Tensor, mask: Tensor, which: slice) -> Tensor:
    from transformers.masking_utils import create_bidirectional_mask

    config: Any = bert.config
    seen = create_bidirectional_mask(config=config, inputs_embeds=hidden, attention_mask=mask)
    for layer in list(bert.get_submodule("encoder.layer").children())[which]:
        hidden = layer(hidden, seen)
    return hidden


class FrozenText:
    """A table of hidden states, asked with what a tokenizer returns.

    It holds tokens, not padding: a loss that counts padding can't use it. It is as confidential as
    the impressions.
    """

    def __init__(
        self,
        bert: nn.Module,
        layers: int,
        tokenizer: Tokenizer,
        sentences: Sequence[str],
        folder: Path | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Runs `layers` layers over every distinct sentence, or finds that done in `folder`.

        With a folder the table is a memory-mapped file, named after the weights of these layers and
        all ids, so that no other training takes it for its own; without one it lies in memory. One
        of several processes must have finished before the others begin.

        Raises UsageError when the file can't be written, IntegrityError when it was changed.
        """
        self._bert, self._count = bert, layers
        texts = sorted(_distinct(tokenizer, sentences), key=lambda text: (len(text), text))
        ends = np.cumsum([0] + [len(text) // ID.itemsize for text in texts]).tolist()
        spans = itertools.pairwise(ends)
        self._spans = {text: slice(*span) for text, span in zip(texts, spans, strict=True)}
        config: Any = bert.config
        shape = (ends[-1], int(config.hidden_size))
        size = shape[0] * shape[1] * STORED.itemsize
        say(f"frozen text: {len(texts)} impressions, {shape[0]} tokens, {size / 1e9:.2f} GB")
        self._table: NDArray[np.float16]
        if folder is None:
            self._table, done = np.empty(shape, STORED), 0
            for part in self._computed(texts, say):
                self._table[done : done + len(part)] = part
                done += len(part)
            return
        path = folder / f"frozen-text-{_key(bert, layers, texts)}.f16"
        if not path.exists():
            _write(path, self._computed(texts, say))
        _check(path, size)
        self._table = np.memmap(path, STORED, "r", shape=shape)

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask int64 [N, T] → float32 [N, T, W] for `upper_layers`, 0 at padding.

        A sentence that was not among those of the start is computed now, and not kept.
        """
        texts = _packed(ids, mask)
        hidden = torch.zeros(*ids.shape, self._table.shape[1])
        for row, text in zip(hidden, texts, strict=True):
            if text in self._spans:
                known = self._table[self._spans[text]].astype(np.float32)
                row[: len(known)] = torch.from_numpy(known)
        hidden = hidden.to(ids.device)
        new = [i for i, text in enumerate(texts) if text not in self._spans]
        if new:
            with torch.autocast(ids.device.type, enabled=False):  # as those of the table
                fresh = lower_layers(self._bert, ids[new], mask[new], self._count)
            hidden[new] = fresh.half().float() * mask[new, :, None]
        return hidden

    def _computed(
        self, texts: Sequence[bytes], say: Callable[[str], None]
    ) -> Iterator[NDArray[np.float16]]:
        """[tokens, W] of AT_ONCE impressions after the other; neighbours are equally long."""
        device = next(self._bert.parameters()).device
        for start in range(0, len(texts), AT_ONCE):
            rows = [np.frombuffer(text, ID) for text in texts[start : start + AT_ONCE]]
            mask = torch.arange(len(rows[-1])) < torch.tensor([[len(row)] for row in rows])
            ids = torch.zeros(mask.shape, dtype=torch.int64)
            ids[mask] = torch.from_numpy(np.concatenate(rows)).long()
            ids, mask = ids.to(device), mask.to(device)
            hidden = lower_layers(self._bert, ids, mask.long(), self._count)[mask]
            yield hidden.half().cpu().numpy()
            if start // AT_ONCE % 1000 == 999:
                say(f"frozen text: {start + AT_ONCE} of {len(texts)} impressions")


def _packed(ids: Tensor, mask: Tensor) -> list[bytes]:
    """The ids of each row that are no padding, as bytes."""
    lengths = mask.sum(1).tolist()
    rows = ids.cpu().numpy().astype(ID)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def _distinct(tokenizer: Tokenizer, sentences: Sequence[str]) -> set[bytes]:
    unique = sorted(set(sentences))
    return {
        text
        for start in range(0, len(unique), 1024)
        for text in _packed(*tokenizer(unique[start : start + 1024]))
    }


def _key(bert: nn.Module, layers: int, texts: Sequence[bytes]) -> str:
    """What the table depends on; the tokenizer is in the ids."""
    config: Any = bert.config
    sizes = (config.num_attention_heads, config.hidden_act, config.layer_norm_eps)
    digest = hashlib.sha256(str(sizes).encode())
    frozen = ["embeddings", *(f"encoder.layer.{i}" for i in range(layers))]
    for name in frozen:
        for key, value in sorted(bert.get_submodule(name).state_dict().items()):
            digest.update(f"{name}.{key} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().float().contiguous().numpy())
    for text in texts:
        digest.update(len(text).to_bytes(4, "little") + text)
    return digest.hexdigest()[:32]


def _write(path: Path, parts: Iterator[NDArray[np.float16]]) -> None:
    """The table, then its SHA-256: whole or not at all. Not through a map: there a full disk kills
    the process."""
    digest = hashlib.sha256()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            _lock(file)
            for part in parts:
                data = part.astype(STORED).tobytes()
                digest.update(data)
                file.write(data)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise UsageError(
            f"{path} can't be written ({error.strerror}); name another folder, or "
            "--set cache_frozen_text=false"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _check(path: Path, size: int) -> None:
    """Raises IntegrityError unless the file is `size` bytes and their SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in range(0, size, CHUNK):
            digest.update(file.read(min(CHUNK, size - start)))
        if file.read() != digest.digest():
            raise IntegrityError(f"{path} is not what was written; delete it, it is computed again")


def sweep_tables(folder: Path) -> None:
    """Removes the tables that killed processes were writing; those being written are locked."""
    for path in folder.glob(".frozen-text-*.tmp"):
        with contextlib.suppress(OSError):
            with path.open("r+b") as file:
                _lock(file)
            path.unlink()


def _lock(file: IO[bytes]) -> None:
    """Until it is closed. Raises OSError when another process has it; Windows, where nobody can
    remove an open file, needs no lock."""
    if os.name != "nt":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
