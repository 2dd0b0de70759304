"""python -m pytest tests/export/test_labels_kept.py -- listed, chosen, checked and repaired."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.export.swapped import LUNGS, labels, tree
from tier_infer.bundle import load_bundle


@pytest.fixture
def with_lungs(bundle: Path) -> Path:
    assert labels(bundle, "--queries", bundle.parent / "lungs.toml").exit_code == 0
    return bundle


def test_the_bare_command_lists_the_sets_and_writes_nothing(with_lungs: Path) -> None:
    was = tree(with_lungs)
    sets = load_bundle(with_lungs).manifest.label_sets
    result = labels(with_lungs)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[:2] == [
        f"chexpert      5 labels  de en es fr  {sets['chexpert']['sha256'][:12]}  default",
        f"lungs         2 labels  de en        {sets['lungs']['sha256'][:12]}",
    ]
    assert result.stdout.splitlines()[2].endswith(", default set chexpert")
    table = json.loads(labels(with_lungs, "--json").stdout)
    rows = [(r["set"], r["labels"], r["languages"], r["default"]) for r in table["sets"]]
    assert rows == [
        ("chexpert", 5, ["de", "en", "es", "fr"], True),
        ("lungs", 2, ["de", "en"], False),
    ]
    assert [r["sha256"] for r in table["sets"]] == [entry["sha256"] for entry in sets.values()]
    assert tree(with_lungs) == was


def test_a_set_of_the_bundle_becomes_the_default(with_lungs: Path) -> None:
    was = tree(with_lungs)
    result = labels(with_lungs, "--default", "Lungs")
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    assert line.endswith(", default set lungs, was chexpert: a bare label now means lungs's")
    assert result.stderr == ""
    now = tree(with_lungs)
    assert {name for name in {*was, *now} if now.get(name) != was.get(name)} == {"manifest.json"}
    assert load_bundle(with_lungs).manifest.default_set == "lungs"
    again = labels(with_lungs, "--default", "lungs")
    assert again.stdout.endswith(", default set lungs\n")
    assert labels(with_lungs, "--remove", "chexpert").exit_code == 0


def test_what_was_not_measured_for_a_new_set_is_the_last_line(bundle: Path) -> None:
    result = labels(bundle, "--queries", bundle.parent / "lungs.toml", "--queries", "chexzero")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[-1] == (
        f"fp16 not yet measured for lungs, chexzero; next: tier-export verify {bundle}"
    )


def test_one_label_is_no_labels(bundle: Path) -> None:
    result = labels(bundle, "--queries", "pneumonia")
    assert result.stdout.startswith("added    pneumonia      1 label   ")


def test_a_check_tells_every_error_of_every_set(bundle: Path) -> None:
    """Of sentences that can't be read, and of directions of the labels that can."""
    was = tree(bundle.parent)
    odd = LUNGS.replace("A pleural", "Отёк").replace("The heart", "edema " * 200 + "the heart")
    same = '[[label]]\nid = "a"\npositive = ["Edema is present."]\nnegative = ["Edema is present."]'
    again = LUNGS.replace("set = ", "set = 'more' #")
    (bundle.parent / "odd.toml").write_text(f"{odd}{same}")
    (bundle.parent / "more.toml").write_text(again)
    files = ["--queries", bundle.parent / "odd.toml", "--queries", bundle.parent / "more.toml"]
    result = labels(bundle, *files, "--check", "--json")
    assert result.exit_code == 2
    table = json.loads(result.stdout)
    wet, heart, a = table["errors"]
    assert wet.startswith("lungs: label wet: the vocabulary has no letters")
    assert heart.startswith("lungs: label heart: ")
    assert heart.endswith(" tokens, allowed 128; make two sentences of it")
    assert a == "lungs: label a: its positive and negative sentences mean the same"
    assert [(row["action"], row["set"]) for row in table["sets"]] == [
        ("refused", "lungs"),
        ("checked", "more"),
    ]
    (row,) = (row for row in table["findings"] if row["kind"] == "alone")
    assert (row["set"], row["labels"]) == ("more", ["heart"])
    assert "tier-export: 3 errors in lungs; mend the file" in result.stderr
    assert [f"tier-export: {line}" in result.stderr for line in table["errors"]] == [True] * 3
    refused = labels(bundle, "--queries", bundle.parent / "odd.toml")
    assert refused.exit_code == 2
    assert "1 of 2 errors; `tier-export labels --check` lists all" in refused.stderr
    for name in ("odd.toml", "more.toml"):
        (bundle.parent / name).unlink()
    assert tree(bundle.parent) == was


@pytest.mark.parametrize("check", [True, False])
def test_what_only_reads_does_not_put_back_what_a_kill_took_away(bundle: Path, check: bool) -> None:
    bundle.rename(bundle.parent / ".bundle.old")
    was = tree(bundle.parent)
    args = ["--queries", bundle.parent / "lungs.toml", "--check"] if check else []
    assert labels(bundle, *args).exit_code == 2
    assert tree(bundle.parent) == was


@pytest.mark.parametrize("damage", ["missing", "changed", "cut"])
@pytest.mark.parametrize("by", ["--queries", "--remove"])
def test_a_damaged_set_is_made_again_or_goes(with_lungs: Path, damage: str, by: str) -> None:
    whole = tree(with_lungs)
    path = with_lungs / "queries/lungs.onnx"
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:-1] + (b"\0" if damage == "changed" else b""))
    result = labels(with_lungs)
    assert result.exit_code == 4
    assert "label set lungs: lungs.onnx " in result.stderr
    assert "or take it out with --remove lungs" in result.stderr
    assert labels(with_lungs, "--queries", "chexzero").exit_code == 4
    result = labels(
        with_lungs, by, with_lungs.parent / "lungs.toml" if by == "--queries" else "lungs"
    )
    assert result.exit_code == 0, result.output
    left = load_bundle(with_lungs, unused=True).manifest.label_sets
    assert list(left) == (["chexpert", "lungs"] if by == "--queries" else ["chexpert"])
    if by == "--queries":
        assert tree(with_lungs) == whole


def test_a_damaged_encoder_is_not_brought_along(with_lungs: Path) -> None:
    (with_lungs / "queries/lungs.onnx").unlink()
    encoder = with_lungs / "image_encoder.onnx"
    encoder.write_bytes(encoder.read_bytes()[:-1] + b"\0")
    was = tree(with_lungs)
    result = labels(with_lungs, "--remove", "lungs")
    assert result.exit_code == 4
    assert "image_encoder.onnx was changed" in result.stderr
    assert tree(with_lungs) == was
