"""Studies of MIMIC-CXR whose impression stands where no rule finds it.

Found by hand by the publishers (MIT-LCP/mimic-cxr, `custom_mimic_cxr_rules` in
txt/section_parser.py): study number → the section that holds it, or where it begins and ends in the
report. (0, 0): the report has no findings at all.
"""

from __future__ import annotations

_BY_SECTION = {
    "recommendations": "50913680 59768032 59067458 59087630 58157373 56482935 58375018",
    "examination": "59363654 53356173 50743547 59215320 55157853",
    "indication": "57936451 50058765 51966317 55124749 54365831 54654948",
    "technique": "59279892 53202765 50808053",
    "history": "51491012",
    "note": "56451190",
}
NAMED = {study: section for section, studies in _BY_SECTION.items() for study in studies.split()}

_NOTHING = "58235663 50798377 54168089 53071062 56724958 54231141 53607029 52035334"
RANGES = {
    "50525523": (201, 349), "57564132": (233, 554), "59982525": (313, 717),
    "53488209": (149, 475), "54875119": (234, 988), "50196495": (59, 399),
    "56579911": (59, 218), "52648681": (292, 631), "59889364": (172, 453),
    "53514462": (73, 377), "59505494": (59, 450), "53182247": (59, 412),
    "51410602": (47, 320), "56412866": (522, 822), "54986978": (59, 306),
    "59003148": (262, 505), "57150433": (61, 394), "56760320": (219, 457),
    "59562049": (158, 348), "52674888": (145, 296), "55258338": (192, 568),
    "59330497": (140, 655), "52119491": (179, 454),
    **dict.fromkeys(_NOTHING.split(), (0, 0)),
}  # fmt: skip
