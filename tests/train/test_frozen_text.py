"""python -m pytest tests/train/test_frozen_text.py -- cached layers against the whole BERT."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tier_infer.errors import IntegrityError, UsageError
from tier_train.recipe import Recipe
from tier_train.towers import frozen_text
from tier_train.towers.frozen_text import FrozenText, lower_layers, sweep_tables, upper_layers
from tier_train.towers.text_encoder import TextEncoder

torch.set_num_threads(1)
RECIPE = Recipe(
    text_width=32, text_layers=3, text_heads=4, embed_dim=16, text_dropout=0.1, text_frozen=2
)
SENTENCES = ["no acute process", "edema", "small left effusion is seen", "edema", "a b c d e f g h"]
DISTINCT, TOKENS = 4, (2 + 3) + (2 + 1) + (2 + 5) + (2 + 8)


class Words:
    """A tokenizer that numbers words by their letters: 1 … 2 around them, 0 as padding."""

    max_tokens = 12
    vocab_size = 64

    def __call__(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = [self.uncut(sentence)[: self.max_tokens] for sentence in sentences]
        longest = max(len(row) for row in rows)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return ids, (ids > 0).long()

    def uncut(self, sentence: str) -> list[int]:
        return [1, *(3 + sum(map(ord, word)) % 61 for word in sentence.split()), 2]

    def can_read(self, sentence: str) -> bool:
        return True

    def state(self) -> dict[str, object]:
        return {}


@pytest.fixture(scope="module")
def words() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(RECIPE, Words.vocab_size).eval()


def _frozen(words: TextEncoder, folder: Path | None = None) -> FrozenText:
    return FrozenText(words.text, 2, Words(), SENTENCES, folder)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_lower_and_upper_layers_are_the_whole_bert(
    words: TextEncoder, count: int, attention: str
) -> None:
    words.text.set_attn_implementation(attention)  # type: ignore[operator]
    ids, mask = Words()(SENTENCES)
    assert not mask.all(), "else the mask would go unnoticed"
    whole = words.text(input_ids=ids, attention_mask=mask).last_hidden_state
    lower = lower_layers(words.text, ids, mask, count)
    assert not lower.requires_grad
    both = upper_layers(words.text, lower, mask, count)
    assert (both - whole).abs().max() < 1e-6
    wrong = upper_layers(words.text, lower_layers(words.text, ids, mask * 0 + 1, 2), mask, 2)
    assert (wrong - whole)[mask.bool()].abs().max() > 1e-3


def test_embeddings_of_the_cache_are_those_of_the_text_tower(words: TextEncoder) -> None:
    frozen = _frozen(words)
    ids, mask = Words()([SENTENCES[2], SENTENCES[1], SENTENCES[0]])
    expected = words(ids, mask)[mask.bool()]
    token_e = words.project(upper_layers(words.text, frozen(ids, mask), mask, 2))[mask.bool()]
    assert (token_e - expected).abs().max() < 1e-3  # float16
    exact = lower_layers(words.text, ids, mask, 2) * mask[..., None]
    assert torch.equal(frozen(ids, mask).half(), frozen(ids, mask))
    assert (frozen(ids, mask) - exact).abs().max() < 2e-3
    assert not frozen(ids, mask)[mask == 0].any()


def test_padding_of_another_batch_changes_nothing(words: TextEncoder) -> None:
    frozen = _frozen(words)
    alone = frozen(*Words()([SENTENCES[1]]))
    beside = frozen(*Words()([SENTENCES[4], SENTENCES[1]]))
    assert torch.equal(alone[0], beside[1, :3])


def test_each_distinct_sentence_is_computed_once(
    words: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def counted(bert: torch.nn.Module, ids: Tensor, mask: Tensor, count: int) -> Tensor:
        seen.append(int(mask.sum()))
        return lower_layers(bert, ids, mask, count)

    monkeypatch.setattr(frozen_text, "lower_layers", counted)
    monkeypatch.setattr(frozen_text, "AT_ONCE", 3)
    said: list[str] = []
    frozen = FrozenText(words.text, 2, Words(), SENTENCES, say=said.append)
    assert sum(seen) == TOKENS
    assert f"{DISTINCT} impressions, {TOKENS} tokens" in said[0]
    frozen(*Words()(SENTENCES))
    assert sum(seen) == TOKENS
    ids, mask = Words()(["a b c d e f g h", "never seen before"])
    hidden = frozen(ids, mask)
    assert sum(seen) == TOKENS + 5
    assert torch.equal(hidden, hidden.half().float())
    assert not hidden[mask == 0].any()
    exact = lower_layers(words.text, ids, mask, 2)
    assert (hidden - exact * mask[..., None]).abs().max() < 2e-3


def test_dropout_stays_in_the_layers_that_learn_only(words: TextEncoder) -> None:
    learning = TextEncoder(replace(RECIPE, text_dropout=0.5), Words.vocab_size)
    learning.load_state_dict(words.state_dict())
    learning.train()
    frozen = _frozen(learning)
    assert all(module.training for module in learning.modules())
    ids, mask = Words()(SENTENCES)
    assert torch.equal(frozen(ids, mask), _frozen(words)(ids, mask))
    hidden = frozen(ids, mask)
    first, second = (upper_layers(learning.text, hidden, mask, 2) for _ in range(2))
    assert (first - second).abs().max() > 0.1


def test_gradients_reach_the_upper_layers_only(words: TextEncoder) -> None:
    learning = TextEncoder(RECIPE, Words.vocab_size)
    learning.load_state_dict(words.state_dict())
    ids, mask = Words()(SENTENCES)
    hidden = _frozen(learning)(ids, mask)
    learning.project(upper_layers(learning.text, hidden, mask, 2))[mask.bool()].sum().backward()
    with_gradient = {name for name, p in learning.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, p in learning.named_parameters() if p.requires_grad}
    assert any("layer.2" in name for name in with_gradient)
    assert not any("layer.1" in name or "embeddings" in name for name in with_gradient)


def test_the_file_is_written_once_and_read_again(
    words: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    ids, mask = Words()(SENTENCES)
    hidden = _frozen(words, folder)(ids, mask)
    assert torch.equal(hidden, _frozen(words)(ids, mask))
    (file,) = folder.iterdir()
    assert file.stat().st_size == TOKENS * 32 * 2 + 32, "and a digest"
    monkeypatch.setattr(frozen_text, "lower_layers", lambda *_: pytest.fail("computed again"))
    assert torch.equal(hidden, _frozen(words, folder)(ids, mask))


def test_other_weights_layers_or_sentences_have_another_file(
    words: TextEncoder, tmp_path: Path
) -> None:
    _frozen(words, tmp_path)
    other = TextEncoder(RECIPE, Words.vocab_size)
    other.load_state_dict(words.state_dict())
    with torch.no_grad():
        other.get_parameter("text.encoder.layer.2.output.dense.bias").add_(1)
        other.get_parameter("text_head.dense_to_hidden.bias").add_(1)
    _frozen(other, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1, "what learns is no part of the key"
    for name in ("encoder.layer.1.output.dense.bias", "embeddings.word_embeddings.weight"):
        with torch.no_grad():
            other.get_parameter(f"text.{name}").add_(1e-3)
        _frozen(other, tmp_path)
    FrozenText(words.text, 1, Words(), SENTENCES, tmp_path)
    FrozenText(words.text, 2, Words(), SENTENCES[1:], tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("damage", ["shorter", "longer", "another byte", "another last byte"])
def test_a_changed_file_is_refused(words: TextEncoder, tmp_path: Path, damage: str) -> None:
    _frozen(words, tmp_path)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    at = 700 if damage == "another byte" else len(good) - 1
    other = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
    file.write_bytes({"shorter": good[:-2], "longer": good + b"a"}.get(damage, other))
    with pytest.raises(IntegrityError, match="delete it"):
        _frozen(words, tmp_path)


def test_what_a_killed_process_was_writing_is_swept(
    words: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what a running one is writing, here this one between two parts."""
    seen: list[list[str]] = []

    def sweeping(bert: torch.nn.Module, ids: Tensor, mask: Tensor, count: int) -> Tensor:
        sweep_tables(tmp_path)
        seen.append([path.name for path in tmp_path.iterdir()])
        return lower_layers(bert, ids, mask, count)

    (tmp_path / ".frozen-text-0.f16.7.tmp").touch()
    monkeypatch.setattr(frozen_text, "lower_layers", sweeping)
    _frozen(words, tmp_path)
    (name,) = seen[-1]
    assert name.endswith(f".{os.getpid()}.tmp")
    assert [path.suffix for path in tmp_path.iterdir()] == [".f16"]


def test_a_new_sentence_is_computed_as_those_of_the_table(words: TextEncoder) -> None:
    """In float32, also where a step computes in bfloat16."""
    strong = TextEncoder(RECIPE, Words.vocab_size).eval()
    strong.load_state_dict({key: value * 5 for key, value in words.state_dict().items()})
    frozen, (ids, mask) = _frozen(strong), Words()(["never seen before"])
    expected = frozen(ids, mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(lower_layers(strong.text, ids, mask, 2).half().float(), expected)
        assert torch.equal(frozen(ids, mask), expected)


def test_a_killed_pass_leaves_no_file(
    words: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []

    def killed(bert: torch.nn.Module, ids: Tensor, mask: Tensor, count: int) -> Tensor:
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return lower_layers(bert, ids, mask, count)

    monkeypatch.setattr(frozen_text, "lower_layers", killed)
    monkeypatch.setattr(frozen_text, "AT_ONCE", 2)
    with pytest.raises(KeyboardInterrupt):
        _frozen(words, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(words: TextEncoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can't be written"):
        _frozen(words, tmp_path / "file")
