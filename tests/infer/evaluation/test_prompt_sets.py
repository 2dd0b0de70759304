"""python -m pytest tests/infer/evaluation/test_prompt_sets.py -- what PadChest and COVID are asked.

Expected sentences are built here as the sources build them: TIER's section 2.4 and 3.4, and
getLabelEmbeddings of its released code.
"""

from __future__ import annotations

import json

from tests.conftest import DATA
from tier_infer.evaluation.covid import CLASSES
from tier_infer.label_sets import column_id, load_label_set

FINDINGS = tuple(json.loads((DATA / "padchest57_counts.json").read_text())["counts"])


def pairs(name: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    return {label.name: (label.positive, label.negative) for label in load_label_set(name).labels}


def test_padchest_asks_the_57_findings_of_the_paper_in_its_order() -> None:
    assert len(FINDINGS) == 57
    for name in ("padchest", "padchest_released", "padchest_chexzero"):
        labels = load_label_set(name).labels
        assert tuple(label.name for label in labels) == FINDINGS
        assert [label.id for label in labels] == [column_id(name) for name in FINDINGS]


def test_padchest_is_present_or_not() -> None:
    asked = pairs("padchest")
    for name in FINDINGS:
        said = name[0].upper() + name[1:]
        negative = "Abnormal findings." if name == "normal" else f"No {name}."
        assert asked[name] == ((f"{said} is present.",), (negative,))
    assert asked["COPD signs"] == (("COPD signs is present.",), ("No COPD signs.",))


def test_the_released_code_joins_without_a_space() -> None:
    asked = pairs("padchest_released")
    assert asked == {name: ((name + "is present",), ("No " + name + ".",)) for name in FINDINGS}
    assert asked["cardiomegaly"][0] == ("cardiomegalyis present",)
    assert asked["normal"][1] == ("No normal.",)


def test_chexzero_says_the_label_or_no_before_it() -> None:
    """Its PadChest evaluation lower-cases the labels; the templates are "{}" and "no {}"."""
    lower = {name: ((name.lower(),), (f"no {name.lower()}",)) for name in FINDINGS}
    assert pairs("padchest_chexzero") == lower


def test_covid_is_the_margin_of_two_sentences() -> None:
    (label,) = load_label_set("covid").labels
    assert label.id == column_id(CLASSES["COVID-19"]) == "covid_19"
    assert label.positive == (
        "Ground glass opacities and consolidation with peripheral distribution with fine reticular "
        "opacity and vascular thickening.",
    )
    assert label.negative == (
        "Pleural effusion present with lymphadenopathy and consolidation with central "
        "distribution.",
    )
