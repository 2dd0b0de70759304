"""The impression of a MIMIC-CXR report, by the rules of three published extractors.

mimic      sections as MIT-LCP/mimic-cxr (txt/section_parser.py, create_section_files.py) cuts
           them: headings in capitals, misspelt ones understood, CONCLUSION is an impression; the
           last impression that is not empty counts. Text and line breaks as written.
tier       what the released code of the paper trains on (Report_Parser.py): lower case, headings
           of any case, so that a line of text that ends in a colon ends the impression.
chexzero   what CheXzero trains on (data_process.py): words after the last "IMPRESSION:"; a report
           without one is trained on as the text NO IMPRESSION.

No impression is "". What the published rules say of single studies is in report_exceptions.
"""

from __future__ import annotations

import re

from tier_infer.errors import UsageError
from tier_train.data.report_exceptions import NAMED, RANGES

RULES = ("mimic", "tier", "chexzero")
PARAGRAPH = "\n \n"  # every line of a MIMIC-CXR report starts with a space

MIMIC_HEADING = re.compile(r"\n ([A-Z ()/,-]+):\s")
MISSPELT = {  # headings that the rules below would not understand, by what they stand for
    "impression": "conclusion, ndication, impresson, imprression, imoression, impressoin, "
    "imprssion, impresion, imperssion, mpression, impession",
    "findings": "finding, findins, findindgs, findgings, findngs, findnings, finidngs",
    "comparison": "reference exam, comparision, comparsion, comparrison, comparisions",
    "indication": "reason for examination, reason for exam, clinical indication, idication",
    "history": "clinical information, pfi",
    "examination": "exam, type of examination",
    "recommendations": "recommendation(s), recommendation",
}
NORMALISED = {name: title for title, names in MISSPELT.items() for name in names.split(", ")}
MAIN = ("impression", "findings", "history", "comparison", "addendum")  # the first that is inside
VIEWS = re.compile(  # a heading that names the view stands above the findings
    "chest|portable|pa and lateral|lateral and pa|ap and lateral|lateral and ap|frontal and|"
    "two views|frontal view|pa view|ap view|one view|lateral view|bone window|frontal upright|"
    "frontal semi-upright|ribs|pa and lat"
)

TIER_HEADING = re.compile(r"^([ \w()]+):", re.MULTILINE)
TIER_TAGS = {  # [** … **] of the older de-identification, in this order
    "LOC": "location|address|university|country|state|unit number",
    "DATE": "year|month|day|date",
    "HOSPITAL": "hospital",
    "ID": "identifier|serial number|medical record number|social security number|md number",
    "AGE": "age",
    "PHONE": "phone|pager number|contact info|provider number",
    "NAME": "name|initial|dictator|attending",
    "COMPANY": "company",
    "CLIP_NUM": "clip number",
}
TIER_DATE = r"\d{4}|\d{0,2}[/-]\d{0,2}|\d{0,2}[/-]\d{4}|\d{0,2}[/-]\d{0,2}[/-]\d{4}"
# Found at every place, as `dayear` holds a day and a year
TIER_TAG_ENDS = [(re.compile(f"(?=({tag}))"), word) for word, tag in TIER_TAGS.items()]
TIER_DATES = re.compile(rf"\[\*\*(?:{TIER_DATE}|\d{{4}}[/-]\d{{0,2}}[/-]\d{{0,2}})\*\*\]")
TIER_SUBSTITUTES = [
    (re.compile(r"\d{1,2}:\d{2}"), "TIME"),
    (re.compile(r"__+"), ""),
    (re.compile(r"the study and the report were reviewed by the staff radiologist."), ""),
]

# The first group that occurs anywhere in the report ends the impression, wherever it stands.
CHEXZERO_ENDS = (
    ("RECOMMENDATION(S):", "RECOMMENDATION:", "RECOMMENDATIONS:"),
    ("NOTIFICATION:", "NOTIFICATIONS:"),
)


def impression(report: str, rules: str, study: str = "") -> str:
    """The text to train on, or "". `study`: digits of the study's number, for its exceptions.

    Raises UsageError for rules of another name.
    """
    if rules == "mimic":
        return _mimic(report, study)
    if rules == "tier":
        return _tier(report)
    if rules == "chexzero":
        return _chexzero(report)
    raise UsageError(f"impressions is {rules!r}; allowed: {', '.join(RULES)}")


def mimic_sections(report: str) -> dict[str, str]:
    """title → text of the last section of that title; titles normalised, empty impressions and
    findings left out. `last_paragraph` only where there is neither impression nor findings."""
    named = [(_mimic_title(title), text) for title, text in _mimic_parts(report)]
    named = [s for s in named if s[0] not in ("impression", "findings") or s[1].strip()]
    titles = {title for title, _ in named}
    if named and not titles & {"impression", "findings"} and PARAGRAPH in named[-1][1]:
        title, text = named[-1]
        first, _, rest = text.partition(PARAGRAPH)
        named[-1:] = [(title, first), ("last_paragraph", rest)]
    return {title: text.strip() for title, text in named}


def _mimic(report: str, study: str) -> str:
    if study in RANGES:
        start, end = RANGES[study]
        return report[start:end].strip()
    return mimic_sections(report).get(NAMED.get(study, "impression"), "")


def _mimic_parts(report: str) -> list[tuple[str, str]]:
    """Heading and text of each section in order, the text before the first one as `preamble`."""
    match = MIMIC_HEADING.search(report)
    if match is None:
        return [("full report", report)]
    parts = [("preamble", report[: match.start(1)])]
    while match is not None:
        start = match.end()
        # A heading in the line of another one is none: `EXAM:  CHEST PA:` has one section.
        found = MIMIC_HEADING.search(report, max(start, report.find("\n", start)))
        parts.append((match[1], report[start : found.start() if found else len(report)]))
        match = found
    return parts


def _mimic_title(heading: str) -> str:
    title = heading.lower().strip()
    if title in NORMALISED:
        return NORMALISED[title]
    for main in MAIN:
        if main in title:
            return main
    return "findings" if VIEWS.search(title) else title


def _tier(report: str) -> str:
    text = "\n".join(map(_tier_tags, report.lower().split("\n")))
    for pattern, word in TIER_SUBSTITUTES:
        text = pattern.sub(word, text)
    headings = list(TIER_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    found = ""
    for heading, end in zip(headings, ends, strict=False):
        if heading[1].strip() == "impression":
            found = text[heading.end() : end]
    # Runs of spaces become one, a line break without a space beside it becomes two characters.
    return re.sub(r"\s{2,}", " ", found).strip().replace("\n", "\\n")


def _tier_tags(line: str) -> str:
    """One line with its [** … **] replaced: by each tag in turn, then dates, then any.

    The published patterns, `[** .* tag .*? **]` and `[** .* **]`, take cubic time on hostile lines.
    Each matches once in a line: from the first opening to the first closing after the last tag.
    """
    for pattern, word in TIER_TAG_ENDS:
        start, last = line.find("[**"), line.rfind("**]")
        if 0 <= start < last:
            ends = [m.end(1) for m in pattern.finditer(line, start + 3) if m.end(1) <= last]
            if ends:
                line = line[:start] + word + line[line.index("**]", ends[-1]) + 3 :]
    line = TIER_DATES.sub("DATE", line)
    start, last = line.find("[**"), line.rfind("**]")
    return line[:start] + "OTHER" + line[last + 3 :] if 0 <= start <= last - 3 else line


def _chexzero(report: str) -> str:
    words = report.split()
    if "IMPRESSION:" not in words:
        return "NO IMPRESSION"
    begin = len(words) - words[::-1].index("IMPRESSION:")
    ends = [
        next((words.index(word) for word in group if word in words), 0) for group in CHEXZERO_ENDS
    ]
    return " ".join(words[begin : min(filter(None, ends), default=len(words))])
