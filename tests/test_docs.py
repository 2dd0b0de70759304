"""docs/dicom.md says what the code does: every reason, every flag, every decoder, every hazard."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tier_infer.dicom.syntaxes import SYNTAXES
from tier_infer.intensity import PRESETS
from tier_infer.words import FLAG_WORDS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/dicom.md").read_text()
REFUSALS = ("NotEvaluated", "FailedImage", "kind")


def table(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    part = re.split(r"^## ", TEXT, flags=re.M)
    section = next(p for p in part if p.startswith(heading))
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def codes(heading: str) -> set[str]:
    return {code for row in table(heading) for code in re.findall(r"`([a-z_]+)`", row[0])}


def reasons_in_the_code() -> dict[str, set[str]]:
    """Reason → the classes that raise it, read from the syntax trees of the runtime."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tier_infer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            at = 1 if name == "refuse" else 0
            if name not in (*REFUSALS, "refuse") or len(node.args) <= at:
                continue
            reason = node.args[at]
            if isinstance(reason, ast.Constant) and isinstance(reason.value, str):
                found.setdefault(reason.value, set()).add(name)
    return found


def test_every_reason_is_documented_and_none_is_invented() -> None:
    found = reasons_in_the_code()
    assert len(found) > 40
    indirect = {"modality_lut", "voi_lut"}  # handed to one function that reads both
    assert set(found) | indirect == codes("Not evaluated") | codes("Failed")
    by_rule = {reason for reason, raised_by in found.items() if raised_by & {"NotEvaluated"}}
    assert by_rule | {"not_an_image"} == codes("Not evaluated")


def test_every_flag_is_documented_in_its_own_words() -> None:
    assert {row[0].strip("`"): row[1] for row in table("Flags")} == FLAG_WORDS


def test_every_preset_and_decoder_is_named() -> None:
    assert [row[0].strip("`") for row in table("How grey")] == list(PRESETS)
    said = " ".join(cell for row in table("Decoders") for cell in row).lower()
    for syntax in SYNTAXES.values():
        assert syntax.decoder in ("", *re.findall(r"[a-z]+", said))


def test_all_44_hazards_have_an_answer() -> None:
    rows = table("The 44 hazards")
    assert [int(row[0]) for row in rows] == list(range(1, 45))
    known = codes("Not evaluated") | codes("Failed") | set(FLAG_WORDS)
    options = {"voi", "counted"}
    named = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row[2])}
    assert named <= known | options, named - known
