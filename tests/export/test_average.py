"""python -m pytest tests/export/test_average.py -- weight averaging: made, judged, made again."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from tests.export.kin import saved, shifted, shuffled, stranger
from tier_export.average import average_of, check_average, compared, members_for, taken_apart
from tier_export.cli import main
from tier_export.crops import phantom_crops
from tier_export.members import Members, members_of
from tier_export.parity import Crops
from tier_infer.bundle import load_bundle
from tier_infer.errors import IntegrityError, ParityError, UsageError
from tier_infer.label_sets import LabelSet, load_label_set
from tier_train.checkpoint import Checkpoint, flat_state, load_checkpoint
from tier_train.zero_shot import zero_shot_auc

NAMES = ("a.pt", "b.pt", "c.pt")


@pytest.fixture(scope="module")
def trained(site: Path) -> Checkpoint:
    return load_checkpoint(site / "ckpt.pt")


@pytest.fixture(scope="module")
def folder(trained: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a, b, c as of one run; twin: a's function with its hidden units in another order."""
    folder = tmp_path_factory.mktemp("average")
    for seed, name in enumerate(NAMES):
        saved(shifted(trained, seed, 0.05), folder / name)
    saved(shuffled(load_checkpoint(folder / "a.pt"), 1), folder / "twin.pt")
    return folder


@pytest.fixture(scope="module")
def three(folder: Path) -> list[Checkpoint]:
    return [load_checkpoint(folder / name) for name in NAMES]


@pytest.fixture(scope="module")
def twins(folder: Path, three: list[Checkpoint]) -> list[Checkpoint]:
    return [three[0], load_checkpoint(folder / "twin.pt")]


@pytest.fixture(scope="module")
def labels() -> LabelSet:
    return load_label_set("chexpert")


@pytest.fixture(scope="module")
def crops(three: list[Checkpoint]) -> Crops:
    """The phantoms of every export: five labels with enough pairs."""
    return phantom_crops(members_of(three).geometry, three[0].intensity)


def export(*args: object) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert "Traceback" not in result.output
    return result


def z(members: Members, labels: LabelSet, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = members.encode(pixels)[0] @ members.table(labels).T
    return found


def rows_of(members: Members, labels: LabelSet, crops: Crops) -> list[dict[str, Any]]:
    return compared(members, members.encode(crops.pixels), members.table(labels), labels, crops)


def test_weights_that_err_oppositely_average_to_what_they_err_about(
    trained: Checkpoint, labels: LabelSet, crops: Crops
) -> None:
    """w + n and w - n, running statistics among them: their mean is w."""
    generator = torch.Generator().manual_seed(0)
    pair = [copy.deepcopy(trained.model) for _ in range(2)]
    above, below = (flat_state(model) for model in pair)
    for key, value in above.items():
        if value.is_floating_point():
            n = 0.05 * value.std(correction=0) * torch.randn(value.shape, generator=generator)
            value.add_(n)
            below[key].sub_(n)
    both = [replace(trained, model=m, sha256=str(i)) for i, m in enumerate(pair)]
    members = average_of(both)
    few = crops.pixels[:20]
    exact = z(members_of([trained]), labels, few)
    assert np.abs(z(members_of(both[:1]), labels, few) - exact).max() > 1e-2
    assert np.abs(z(members, labels, few) - exact).max() < 1e-5
    assert members.embed_dim == trained.recipe.embed_dim
    assert not members.networks[0].model.training


def test_counters_are_those_of_the_first_and_nothing_given_is_changed(
    three: list[Checkpoint],
) -> None:
    before = [copy.deepcopy(flat_state(c.model)) for c in three]
    later = copy.deepcopy(three[2].model)
    counters = [v for k, v in flat_state(later).items() if k.endswith("num_batches_tracked")]
    assert counters
    for counter in counters:
        counter.add_(1000)
    members = average_of([*three[:2], replace(three[2], model=later)])
    found = flat_state(members.networks[0].model)
    for key, value in found.items():
        if key.endswith("num_batches_tracked"):
            assert torch.equal(value, before[0][key])
        else:
            hand = sum(state[key].double() for state in before) / 3
            torch.testing.assert_close(value.double(), hand, atol=1e-6, rtol=1e-6)
    for checkpoint, state in zip(three, before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in flat_state(checkpoint.model).items())


def test_the_text_tower_is_the_averaged_one(three: list[Checkpoint]) -> None:
    """Query tables of a member do not belong to the average."""
    members = average_of(three)
    assert members.text_sha256 == members.networks[0].text_sha256
    assert members.text_sha256 not in {c.text_sha256 for c in three}
    assert [row["combined"] for row in members.described()] == ["average"] * 3


def test_what_has_no_mean_is_refused(three: list[Checkpoint], trained: Checkpoint) -> None:
    with pytest.raises(UsageError, match=r"two or more .* got run/a.pt alone"):
        average_of(three[:1], ["run/a.pt"])
    with pytest.raises(UsageError, match="are one checkpoint"):
        average_of([three[0], three[0]])
    narrower = replace(stranger(trained, 48), sha256="other")
    with pytest.raises(UsageError, match=r"run/a.pt and s.pt .* embed_dim is 128 in one and 48"):
        average_of([three[0], narrower], ["run/a.pt", "s.pt"])
    reader = replace(three[1], tokenizer=narrower.tokenizer)
    with pytest.raises(UsageError, match="their vocabularies differ"):
        average_of([three[0], reader])
    heads = replace(three[1], recipe=replace(three[1].recipe, text_heads=4))  # no shape tells
    with pytest.raises(UsageError, match="text_heads is 2 in one and 4"):
        average_of([three[0], heads])
    elsewhere = replace(three[1], intensity="voi")
    with pytest.raises(UsageError, match="intensity"):
        average_of([three[0], elsewhere])


def test_members_ensemble_and_average_are_compared(
    three: list[Checkpoint], labels: LabelSet, crops: Crops
) -> None:
    members = members_of(three)
    encoded = members.encode(crops.pixels)
    parts = taken_apart(members, encoded, members.table(labels), labels)
    assert np.abs(parts[1] - z(members_of(three[1:2]), labels, crops.pixels)).max() < 1e-6
    rows = compared(members, encoded, members.table(labels), labels, crops)
    assert [row["what"] for row in rows] == ["member"] * 3 + ["ensemble", "average"]
    for row, member in zip(rows, three, strict=False):
        areas = zero_shot_auc(member.model, member.tokenizer, crops.pixels, crops.truth, labels)
        assert row["auc"] == pytest.approx(areas, abs=1e-6)
        assert row["mean_auc"] == pytest.approx(np.mean(list(areas.values())), abs=1e-6)
        assert row["checkpoints"] == [member.sha256]
    assert [row["bytes"] / rows[0]["bytes"] for row in rows] == [1, 1, 1, 3, 1]
    assert set(rows[3]["rank"].values()) == {1.0}
    assert min(rows[4]["rank"].values()) > 0.99
    # asked for as an average, the same rows come from separate networks
    again = rows_of(average_of(three), labels, crops)
    for row, other in zip(rows, again, strict=True):
        assert row["rank"] == pytest.approx(other["rank"], abs=1e-4)
        assert row["auc"] == pytest.approx(other["auc"], abs=1e-4)


def test_nothing_to_compare(three: list[Checkpoint], trained: Checkpoint, labels: LabelSet,
                            crops: Crops) -> None:  # fmt: skip
    few = Crops(crops.pixels[:20], {}, "20 phantoms")
    assert rows_of(members_of(three[:1]), labels, few) == []
    apart = [three[0], replace(stranger(trained, 48), sha256="other")]
    rows = rows_of(members_of(apart), labels, few)
    assert [row["what"] for row in rows] == ["member", "member", "ensemble"]
    assert [row["mean_auc"] for row in rows] == [None] * 3


def test_a_twin_with_other_hidden_units_is_no_member_of_an_average(
    twins: list[Checkpoint], labels: LabelSet, crops: Crops
) -> None:
    """Both give the same scores; the mean of their weights gives noise. AUC tells, or the order."""
    few = crops.pixels[:20]
    one, other = (z(members_of([twin]), labels, few) for twin in twins)
    assert np.abs(one - other).max() < 1e-5
    average = average_of(twins, ["a.pt", "twin.pt"])
    with pytest.raises(ParityError, match=r"mean AUC is 0\.\d+, its worst member's 0.* of one run"):
        rows_of(average, labels, crops)
    blind = replace(crops, truth={})
    with pytest.raises(
        ParityError, match=r"rank correlation with their ensemble is .* allowed 0\.9"
    ):
        rows_of(average, labels, blind)
    assert rows_of(members_of(twins), labels, crops)[-1]["what"] == "average"  # shown, not refused


def rows(worst: float, best: float, average: float, rank: float) -> list[dict[str, Any]]:
    """Two labels, one of them without truth."""

    def row(what: str, area: float, rank: float = 1.0) -> dict[str, Any]:
        ranks = {"known": rank, "blind": rank}
        return {"what": what, "checkpoints": ["x", "y"], "auc": {"known": area},
                "mean_auc": area, "rank": ranks}  # fmt: skip

    both = [row("member", worst), row("member", best), row("ensemble", (worst + best) / 2)]
    return [*both, row("average", average, rank)]


def test_the_limits_of_an_average() -> None:
    check_average(rows(0.8, 0.86, 0.791, 0.91), 320)
    for wrong, words in (
        (rows(0.8, 0.86, 0.789, 0.91), "worst member's 0.800, allowed loss 0.01"),
        (rows(0.5, 0.9, 0.6, 0.91), "their ensemble's 0.700, allowed loss 0.05"),
        (rows(0.8, 0.86, 0.85, 0.89), "0.890 on blind"),
        (rows(0.8, 0.86, float("nan"), 0.99), "mean AUC is nan"),
        (rows(0.8, 0.86, 0.85, float("nan")), "nan on blind"),
    ):
        with pytest.raises(ParityError, match=words):
            check_average(wrong, 320)
    with pytest.raises(UsageError, match="can't be judged on 99 images"):
        check_average(rows(0.8, 0.86, 0.85, 0.99), 99)


def test_made_again_from_the_manifest(three: list[Checkpoint]) -> None:
    """Bit for bit, in whatever order the checkpoints are named."""
    for made in (average_of(three), members_of(three)):
        again = members_for(made.described(), [three[2], three[0], three[1]], ["c", "a", "b"])
        assert [c.sha256 for c in again.sources] == [c.sha256 for c in three]
        assert again.text_sha256 == made.text_sha256
        for one, other in zip(made.networks, again.networks, strict=True):
            states = flat_state(one.model), flat_state(other.model)
            assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_other_checkpoints_than_the_bundles_are_refused(
    three: list[Checkpoint], twins: list[Checkpoint]
) -> None:
    described = members_of(three).described()
    foreign = twins[1]
    for given in (three[:2], [*three[:2], foreign], [*three, foreign], [*three, three[0]]):
        with pytest.raises(IntegrityError) as error:
            members_for(described, given, [f"{i}.pt" for i in range(len(given))])
        for checkpoint in three:
            assert checkpoint.sha256[:12] in str(error.value)
        assert f"given are 0.pt {given[0].sha256[:12]}, 1.pt " in str(error.value)
        assert f" {given[-1].sha256[:12]} (SHA-256" in str(error.value)
    for strange in ({"combined": "distilled"}, {"combined": "average"}):
        with pytest.raises(IntegrityError, match="unknown here"):
            members_for([described[0] | strange, *described[1:]], three)


def test_the_command_averages_and_says_what_that_is_worth(
    folder: Path, three: list[Checkpoint], tmp_path: Path
) -> None:
    paths = [folder / name for name in NAMES]
    done = export("--average", *paths, "-o", tmp_path / "bundle")
    assert done.exit_code == 0, done.output
    bundle = load_bundle(tmp_path / "bundle")
    manifest = bundle.manifest
    assert manifest.embed_dim == three[0].recipe.embed_dim
    assert [row["combined"] for row in manifest.checkpoint] == ["average"] * 3
    assert manifest.name.endswith("average of 3")
    meta = {p.key: p.value for p in onnx.load_from_string(bundle.encoder("fp32")).metadata_props}
    assert meta["combined"] == "average"
    assert json.loads(meta["checkpoints"]) == [c.sha256 for c in three]
    compared_rows = json.loads((tmp_path / "bundle/parity.json").read_text())["compared"]
    assert [row["what"] for row in compared_rows] == ["member"] * 3 + ["ensemble", "average"]
    assert "average" in done.stdout
    again = members_for(manifest.checkpoint, three)
    assert manifest.text_sha256 == again.text_sha256


def test_the_command_refuses_what_is_no_run(folder: Path, tmp_path: Path) -> None:
    done = export("--average", folder / "a.pt", folder / "twin.pt", "-o", tmp_path / "bundle")
    assert done.exit_code == 5
    assert "they are not of one run" in done.stderr
    assert list(tmp_path.iterdir()) == []
    alone = export("--average", folder / "a.pt", "-o", tmp_path / "bundle")
    assert alone.exit_code == 2
