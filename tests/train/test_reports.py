"""python -m pytest tests/train/test_reports.py -- three extractors, as their publishers' code cuts.

tests/data/impressions.json holds 12 invented reports and what the three published programs made of
them. The other expectations are worked out by hand from those programs.
"""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tier_infer.errors import UsageError
from tier_train.data.report_exceptions import NAMED, RANGES
from tier_train.data.reports import impression, mimic_sections

CASES = json.loads((Path(__file__).parents[1] / "data/impressions.json").read_text())["cases"]
PRIORITY = ("impression", "findings", "last_paragraph", "comparison")  # of the labelled text


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_published_extractors_are_matched(case: dict[str, Any]) -> None:
    report, expected = case["report"], case["expected"]
    published = expected["mit_lcp"]
    assert impression(report, "mimic") == (published["impression"] or "")
    assert impression(report, "tier") == expected["tier_impression"]
    assert impression(report, "chexzero") == expected["chexzero_impression"]
    sections = mimic_sections(report)
    assert sections.get("impression") == published["impression"]
    assert sections.get("findings") == published["findings"]
    title = next((title for title in PRIORITY if title in sections), None)
    assert title == published["labeler_section"]
    assert sections.get(title or "", "") == published["labeler_text"]


@pytest.mark.parametrize(
    ("heading", "title"),
    [
        ("IMPRESSON", "impression"),  # misspelt, and `ndication` is one of an impression
        ("NDICATION", "impression"),
        ("FINDINGS/IMPRESSION", "impression"),
        ("FINIDNGS", "findings"),
        ("PORTABLE CHEST", "findings"),
        ("REFERENCE EXAM", "comparison"),
        ("HISTORY AND COMPARISON", "history"),
        ("WET READ", "wet read"),
    ],
)
def test_headings_are_understood(heading: str, title: str) -> None:
    other = "FINDINGS" if title == "impression" else "IMPRESSION"  # else the last paragraph is cut
    report = f" FINAL REPORT\n {heading}: \n \n Text.\n {other}: \n \n Else.\n"
    assert mimic_sections(report)[title] == "Text."


def test_a_heading_in_the_line_of_another_is_none() -> None:
    report = " FINAL REPORT\n IMPRESSION: Normal.\n NOTE: none\n"
    assert impression(report, "mimic") == "Normal."
    assert mimic_sections(" R\n EXAM:  CHEST\n IMPRESSION: x\n")["examination"] == "CHEST"


def test_chexzero_ends_at_the_first_recommendation_of_the_report() -> None:
    addendum = "ADDENDUM RECOMMENDATION: CT. IMPRESSION: Old. IMPRESSION: New finding."
    assert impression(addendum, "chexzero") == ""
    both = "IMPRESSION: Nodule. NOTIFICATION: told. RECOMMENDATIONS: CT."
    assert impression(both, "chexzero") == "Nodule."


def test_tier_rewrites_tags_times_and_lines() -> None:
    report = (
        "IMPRESSION: At 12:30 on [**2101-3-4**] \n in [**Hospital 12**] \n by [**First Name 3**]\n"
        "Next line, [**odd**].\n"
    )
    expected = "at TIME on DATE in HOSPITAL by NAME\\nnext line, OTHER."
    assert impression(report, "tier") == expected
    swallowed = "IMPRESSION: Seen [**2101-3-4**] at [**Hospital 12**]."
    assert impression(swallowed, "tier") == "seen HOSPITAL.", "their pattern reaches back"


# The tags of the released Report_Parser.py, as patterns in its order.
PUBLISHED = {
    "LOC": "location|address|university|country|state|unit number",
    "DATE": "year|month|day|date",
    "NAME": "name|initial|dictator|attending",
}
PIECES = ("[**", "**]", "*", "]", "[", "name", "dayear", "initial", "state", " ", "\n", "12")


def test_tier_tags_are_found_as_the_published_patterns_find_them() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        text = expected = "".join(rng.choices(PIECES, k=rng.randint(1, 14)))
        for word, tag in PUBLISHED.items():
            expected = re.sub(rf"\[\*\*.*(?:{tag}).*?\*\*\]", word, expected)
        expected = re.sub(r"\[\*\*\d{4}\*\*\]", "DATE", expected)  # the only dates of these pieces
        expected = re.sub(r"\[\*\*.*\*\*\]", "OTHER", expected)
        found = impression(f"impression:x{text}", "tier")
        again = impression(f"impression:x{expected}", "tier")  # which finds no tag any more
        assert found.lower() == again.lower(), text


def test_tier_reads_a_hostile_line_in_linear_time() -> None:
    start = time.process_time()
    impression("IMPRESSION: " + "[**name" * 20_000, "tier")  # as patterns: 0.5 s for 400, cubic
    assert time.process_time() - start < 2


def test_studies_that_the_publishers_cut_by_hand() -> None:
    """23 by the name of a section and 31 by their characters (peers: MIT-LCP section_parser)."""
    assert (len(NAMED), len(RANGES)) == (23, 31)
    report = (
        " FINAL REPORT\n RECOMMENDATION(S): \n \n Said here.\n \n IMPRESSION: \n \n Not here.\n"
    )
    assert impression(report, "mimic", "50913680") == "Said here."
    assert impression(report, "tier", "50913680") == "not here."
    assert impression("x" * 59 + "From here" + "y" * 500, "mimic", "50196495")[:9] == "From here"
    assert len(impression("z" * 500, "mimic", "50196495")) == 399 - 59
    assert impression(report, "mimic", "58235663") == ""


def test_other_rules_are_refused() -> None:
    with pytest.raises(UsageError, match="allowed: mimic, tier, chexzero"):
        impression("IMPRESSION: x", "chexpert")
