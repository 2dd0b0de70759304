"""python -m pytest tests/train/test_text_encoder.py -- vocabulary, tokens, token embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tier_train.phantoms.impressions import write_impression
from tier_train.phantoms.phantom import sample_case
from tier_train.recipe import Recipe
from tier_train.towers.text_encoder import TextEncoder, embed_prompts
from tier_train.towers.wordpiece import SPECIAL, WordPiece, train_vocabulary

torch.set_num_threads(1)
CLS, SEP, PAD = SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]"), SPECIAL.index("[PAD]")
LONG = "the heart is enlarged and " * 60
RECIPE = Recipe(text_width=32, embed_dim=16)
PROMPTS = ["Edema is present.", "The cardiac silhouette is mildly enlarged.", "No edema."]


def _reports(count: int = 150) -> list[str]:
    return [
        write_impression(
            sample_case(np.random.default_rng([5, i])).findings, np.random.default_rng([5, i, 1])
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def vocab() -> list[str]:
    return train_vocabulary(_reports(), 300)


@pytest.fixture(scope="module")
def tokenizer(vocab: list[str]) -> WordPiece:
    return WordPiece(vocab, 128)


@pytest.fixture(scope="module")
def encoder(vocab: list[str]) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(RECIPE, len(vocab)).eval()


@pytest.mark.parametrize("size", [120, 300, 2000])
def test_the_vocabulary_depends_on_the_text_alone(size: int) -> None:
    reports = _reports()
    first = train_vocabulary(reports, size)
    for _ in range(4):
        again = train_vocabulary(reports, size)
        assert set(again) == set(first)
        assert again == first


def test_special_tokens_come_first_and_nothing_twice(vocab: list[str]) -> None:
    assert tuple(vocab[:5]) == SPECIAL
    assert len(set(vocab)) == len(vocab) <= 300
    assert all(piece == piece.lower() for piece in vocab[5:])


def test_words_seen_twice_are_whole_pieces() -> None:
    vocab = train_vocabulary(["edema edema edema", "edema"], 200)
    assert "edema" in vocab


def test_ids_are_positions_in_the_vocabulary(vocab: list[str], tokenizer: WordPiece) -> None:
    ids, mask = tokenizer(["There is pulmonary edema.", "No edema."])
    assert ids.dtype == mask.dtype == torch.int64
    for row, counted, sentence in zip(
        ids, mask, ("there is pulmonary edema .", "no edema ."), strict=True
    ):
        pieces = [vocab[i] for i in row[counted.bool()]]
        assert pieces[0] == "[CLS]"
        assert pieces[-1] == "[SEP]"
        assert " ".join(pieces[1:-1]).replace(" ##", "") == sentence
        assert all(vocab[i] == "[PAD]" for i in row[~counted.bool()])


def test_a_stored_vocabulary_gives_the_same_ids(vocab: list[str], tokenizer: WordPiece) -> None:
    rebuilt = WordPiece(list(tokenizer.vocab), tokenizer.max_tokens, tokenizer.lower_case)
    for ours, theirs in zip(tokenizer(_reports(20)), rebuilt(_reports(20)), strict=True):
        assert torch.equal(ours, theirs)
    assert rebuilt.vocab == vocab


def test_case_matters_only_when_asked(vocab: list[str], tokenizer: WordPiece) -> None:
    lower, upper = tokenizer(["edema"])[0], tokenizer(["EDEMA"])[0]
    assert torch.equal(lower, upper)
    cased = WordPiece(vocab, 128, lower_case=False)
    assert not torch.equal(cased(["edema"])[0], cased(["EDEMA"])[0])


@pytest.mark.parametrize("limit", [3, 8, 128])
def test_long_text_is_cut_at_max_tokens(vocab: list[str], limit: int) -> None:
    ids, mask = WordPiece(vocab, limit)([LONG, "edema"])
    assert ids.shape == mask.shape == (2, limit)
    assert mask[0].all()
    assert ids[0, -1] == SEP
    assert mask[1].tolist() == [1, 1, 1] + [0] * (limit - 3)


def test_cls_comes_first_and_padding_last(tokenizer: WordPiece) -> None:
    ids, mask = tokenizer(["", "edema", "No edema or effusion."])
    assert (ids[:, 0] == CLS).all()
    assert ((ids == PAD) == (mask == 0)).all()
    assert (mask.diff(dim=1) <= 0).all()
    assert mask[0].sum() == 2  # [CLS] [SEP]
    assert all(int(row[count - 1]) == SEP for row, count in zip(ids, mask.sum(1), strict=True))


def test_an_unknown_character_is_unk(tokenizer: WordPiece) -> None:
    assert SPECIAL.index("[UNK]") in tokenizer(["肺"])[0]


def test_token_embeddings_have_unit_norm(encoder: TextEncoder, tokenizer: WordPiece) -> None:
    with torch.no_grad():
        token_e = encoder(*tokenizer(PROMPTS))
    assert token_e.shape[::2] == (3, 16)
    assert token_e.dtype == torch.float32
    assert (token_e.norm(dim=-1) - 1).abs().max() < 1e-5


def test_padding_does_not_change_an_embedding(encoder: TextEncoder, tokenizer: WordPiece) -> None:
    with torch.no_grad():
        batch = encoder(*tokenizer([*PROMPTS, LONG]))
        for row, prompt in enumerate(PROMPTS):
            alone = encoder(*tokenizer([prompt]))[0]
            assert (batch[row, : len(alone)] - alone).abs().max() < 1e-5


def test_a_prompts_embedding_is_its_cls(encoder: TextEncoder, tokenizer: WordPiece) -> None:
    with torch.no_grad():
        expected = encoder(*tokenizer(PROMPTS))[:, 0]
    embedded = embed_prompts(encoder, tokenizer, PROMPTS)
    assert torch.equal(embedded, expected)
    assert not embedded.requires_grad
    reverse = embed_prompts(encoder, tokenizer, PROMPTS[::-1])
    assert (reverse.flip(0) - embedded).abs().max() < 1e-5


def test_other_words_embed_elsewhere(encoder: TextEncoder, tokenizer: WordPiece) -> None:
    embedded = embed_prompts(encoder, tokenizer, PROMPTS)
    assert torch.pdist(embedded).min() > 1e-3


def test_keys_follow_cxr_bert(encoder: TextEncoder) -> None:
    keys = encoder.state_dict()
    assert {k.split(".")[0] for k in keys} == {"text", "text_head"}
    heads = {k.split(".")[1] for k in keys if k.startswith("text_head.")}
    assert heads == {"dense_to_hidden", "LayerNorm", "dense_to_output"}
    assert not any("pooler" in k for k in keys)


@pytest.mark.parametrize("sentence", ["", "  ", "edema [MASK]", "[SEP] edema", "[CLS]", "отёк"])
def test_what_holds_no_word_or_a_special_token_is_not_read(sentence: str) -> None:
    """Found when the text tower was exported: the edge refused what the export took for words."""
    words = WordPiece(train_vocabulary(["edema is present"] * 2, 120), 16)
    assert words.can_read("Edema is present.")
    assert not words.can_read(sentence)
