"""python -m pytest tests/infer/test_cli_language.py -- findings by their names in a language."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.infer.conftest import Infer
from tests.infer.report_files import LABELS, fake_bundle, scored, study
from tier_infer.output import to_table
from tier_infer.scoring import Selection

FRENCH = {"edema": "Œdème pulmonaire", "pleural_effusion": "Épanchement pleural"}


def table(stdout: str) -> dict[str, str]:
    """name → score, in the order of the lines."""
    lines = (line.strip().rpartition("  ") for line in stdout.splitlines())
    return {name.strip(): z for name, _, z in lines if z[:1] in ("+", "-") and z[1:2].isdigit()}


@pytest.mark.parametrize("code", ["fr", "FR"])
def test_the_table_calls_findings_by_name(infer: Infer, code: str) -> None:
    asked = ("study.dcm", "--labels", ",".join(FRENCH))
    by_id, by_name = (table(infer(*asked, *more).stdout) for more in ((), ("--language", code)))
    assert list(by_id) == list(FRENCH)
    assert by_name == {FRENCH[label]: z for label, z in by_id.items()}


def test_scores_that_do_not_count_are_told_by_name_too() -> None:
    """Those of a lateral, where the bundle takes laterals. A foreign name is escaped."""
    lateral = scored("l.dcm")
    lateral.view = "lateral"
    names = {label: f"{label[:3]}\x1b" for label in LABELS}
    engine: Any = SimpleNamespace(device="cpu", precision="fp32")
    selection = Selection(LABELS, {}, ())
    text = to_table([study(1, lateral)], fake_bundle(), engine, selection, shown=names)
    assert f"not counted for the study: ate\\x1b {lateral.scores['atelectasis']:+.4f}, " in text
    assert "\x1b" not in text


def test_the_report_calls_findings_by_name_and_names_the_set(infer: Infer, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    args = ("study.dcm", "--json", "--labels", "edema", "--report", page, "--language", "fr")
    report = json.loads(infer(*args).stdout)
    assert list(report["studies"][0]["scores"]) == ["edema"]  # programs read ids
    text = page.read_text(encoding="utf-8")
    z = report["studies"][0]["scores"]["edema"]
    assert f'aria-label="{FRENCH["edema"]}"' in text
    assert f"{z:+.4f}" in text
    assert "Edema is present." in text  # sentences stay in the language of the training text
    assert "Label set chexpert SHA-256" in text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--language", "ja"], "languages of these labels: de, en, es, fr"),
        (["--language", "klingon!"], "is no language code"),
        (["--language", "fr", "--json"], "--json and --csv name findings by id"),
        (["--language", "fr", "--csv"], "--json and --csv name findings by id"),
    ],
)
def test_what_no_label_is_called_is_refused(infer: Infer, args: list[str], words: str) -> None:
    result = infer("study.dcm", *args)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stdout == ""
