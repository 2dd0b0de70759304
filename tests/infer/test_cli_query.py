"""python -m pytest tests/infer/test_cli_query.py -- tier-infer --query on a trained bundle."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import Result

import tier_infer
from tests.infer.conftest import Infer
from tests.spoken import speaking
from tier_export.writing import write_bundle
from tier_infer.bundle import load_bundle
from tier_infer.label_sets import load_label_set

SCHEMA = json.loads((Path(tier_infer.__file__).parent / "schema/tier-infer-1.json").read_text())
FOR, AGAINST = "Edema is present.", "No evidence of edema."


@pytest.fixture(scope="module")
def bundle(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speaking(site, tmp_path_factory.mktemp("speaking") / "bundle")


@pytest.fixture
def ask(infer: Infer, bundle: Path) -> Infer:
    return lambda *args: infer("study.dcm", "--bundle", bundle, *args)


def scores(result: Result) -> dict[str, float]:
    report = json.loads(result.stdout)
    jsonschema.validate(report, SCHEMA)
    found: dict[str, float] = report["studies"][0]["scores"]
    return found


@pytest.mark.parametrize("label", load_label_set("chexpert").labels, ids=lambda label: label.id)
def test_a_labels_own_sentences_score_as_the_label(ask: Infer, label: Any) -> None:
    """The label's direction was made by PyTorch, and several sentences stand on both sides."""
    typed = [part for text in label.positive for part in ("--query", text)]
    typed += [part for text in label.negative for part in ("--against", text)]
    found = scores(ask("--json", "--labels", label.id, *typed))
    assert list(found) == [label.id, "query"]
    assert found["query"] == pytest.approx(found[label.id], abs=1e-6)


def test_a_query_alone_is_scored_alone_and_against_nothing(ask: Infer) -> None:
    """Z is linear in q, so what is scored against nothing adds up (eq. 4)."""
    both = scores(ask("--json", "--query", FOR, "--against", AGAINST))
    for_it, against = (scores(ask("--json", "--query", text)) for text in (FOR, AGAINST))
    assert list(both) == list(for_it) == ["query"]
    assert both["query"] == pytest.approx(for_it["query"] - against["query"], abs=1e-6)
    assert abs(both["query"]) > 1e-4


def test_json_says_what_was_asked_as_it_was_typed(ask: Infer) -> None:
    typed = ["  Edema  IS présent ", "Wet lungs."]
    result = ask("--json", "--query", typed[0], "--query", typed[1], "--against", AGAINST)
    report = json.loads(result.stdout)
    report["query"].pop("warnings")
    assert report["query"] == {"positive": typed, "negative": [AGAINST]}
    assert list(report)[-2:] == ["query", "studies"]
    for part in ("positive", "negative"):
        wrong = report | {"query": {part: report["query"][part]}}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)
    assert "query" not in json.loads(ask("--json").stdout)


def test_csv_and_table_have_a_row_for_it(ask: Infer) -> None:
    args = ("--labels", "edema", "--query", FOR, "--against", AGAINST)
    z = scores(ask("--json", *args))
    rows = list(csv.DictReader(io.StringIO(ask("--csv", *args).stdout)))
    assert {row["label"]: float(row["score"]) for row in rows} == z
    lines = ask(*args).stdout.splitlines()
    assert f"  query  {z['query']:+.4f}" in lines
    assert f'query: "{FOR}" against "{AGAINST}"' in lines
    assert f'query: "{FOR}"' in ask("--query", FOR).stdout.splitlines()
    assert 'query: "edema\\x1bc"' in ask("--query", "edema\x1bc").stdout  # ESC c clears a terminal


def test_heatmaps_and_report_show_it(ask: Infer, bundle: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    args = ("--heatmaps", tmp_path / "heat", "--report", page, "--query", FOR, "--against", AGAINST)
    report = json.loads(ask("--json", *args).stdout)
    cells = report["studies"][0]["images"][0]["heatmaps"]["query"]
    assert (len(cells), len(cells[0])) == (7, 7)
    assert [path.name for path in (tmp_path / "heat").iterdir()] == ["study-1_image-1_query.png"]
    manifest, text = load_bundle(bundle).manifest, page.read_text()
    assert FOR in text
    assert AGAINST in text
    assert "Text tower SHA-256" in text
    assert manifest.text_sha256 in text
    assert "Label set" not in text  # none was used
    assert ask("--report", page, "--labels", "edema", "--query", FOR).exit_code == 0
    assert manifest.label_sets["chexpert"]["sha256"] in page.read_text()


def test_in_another_language_a_query_is_still_called_so(ask: Infer) -> None:
    result = ask("--labels", "edema", "--query", FOR, "--language", "de")
    names = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert names[:2] == ["Lungenödem", "query"]


def test_the_same_question_gives_the_same_bytes(ask: Infer) -> None:
    one, other = (ask("--json", "--query", FOR, "--against", AGAINST) for _ in range(2))
    assert one.stdout == other.stdout
    assert one.exit_code == 0


def test_half_precision_answers_too(ask: Infer) -> None:
    one, other = (
        scores(ask("--json", "--query", FOR, "--precision", p))["query"] for p in ("fp32", "fp16")
    )
    assert 0 < abs(one - other) <= 2e-3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--query", ""], "says nothing; write words"),
        (["--query", " \t"], "says nothing; write words"),
        (["--query", FOR, "--against", ""], "says nothing; write words"),
        (["--query", "edema [SEP] none"], "holds [SEP], a mark of the tokenizer"),
        (["--query", "[UNK]"], "holds [UNK], a mark of the tokenizer"),
        (["--query", "edema 肺"], "the vocabulary of this bundle has no letters"),
        (["--query", "edema &amp; effusion"], "holds an HTML character reference"),
        (["--query", "caf\udce9"], "is not valid text"),
        (["--query", "edema " * 126 + "."], "has 129 tokens, the text tower reads 128"),
        (["--query", FOR, "--against", "edema is  PRESENT."], "mean the same to the text tower"),
        (["--against", AGAINST], "--against is about --query"),
        (["--labels", "edema", "--against", AGAINST], "--against is about --query"),
        (["--labels", "", "--query", FOR], "no label was asked for"),
        (["--labels", "query", "--query", FOR], "label 'query' is not in set chexpert"),
    ],
)
def test_what_cannot_be_asked_is_refused(ask: Infer, args: list[str], words: str) -> None:
    result = ask("--json", *args)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stdout == ""


def test_a_refusal_repeats_a_long_sentence_in_part(ask: Infer) -> None:
    result = ask("--query", "edema " * 5000)
    assert result.exit_code == 2
    assert len(result.stderr) < 250


def test_a_bundle_without_words_names_the_option_that_adds_them(infer: Infer) -> None:
    result = infer("study.dcm", "--query", FOR)
    assert result.exit_code == 2
    assert "export it again with `tier-export --text`" in result.stderr


def test_a_bundle_with_a_label_called_query_keeps_that_name(
    ask: Infer, infer: Infer, bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    manifest = load_bundle(bundle).manifest
    labels = manifest.label_sets["chexpert"] | {"labels": ["query"]}
    changed = replace(manifest, label_sets={"chexpert": labels})
    write_bundle(tmp_path / "bundle", changed, {}, keep=manifest)
    result = infer("study.dcm", "--bundle", tmp_path / "bundle", "--query", FOR)
    assert result.exit_code == 2
    assert "has a label called query" in result.stderr


def test_without_the_extra_its_install_line_is_named(
    ask: Infer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    result = ask("--query", FOR)
    assert result.exit_code == 2
    assert "pip install 'tier-cxr[query]'" in result.stderr
    assert ask("--labels", "edema").exit_code == 0


def test_what_to_know_of_the_score_is_said(ask: Infer) -> None:
    """Found in review: a sentence of words it never saw scored +0.76 beside real margins."""
    done = ask("--query", "Freie Luft xyzzy", "--json")
    (words, alone) = json.loads(done.stdout)["query"]["warnings"]
    assert "does not know" in words
    assert "xyzzy" in words
    assert "plain cosine" in alone
    assert words in done.stderr
