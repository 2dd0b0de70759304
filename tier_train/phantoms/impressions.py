"""Radiology impressions for the drawn phantoms, in the manner of short hospital reports.

The sentences are our own and describe drawings: they have no clinical meaning. An impression may
leave a distractor out or not list what is absent, but it names every one of the five findings
that is present and never asserts one that is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tier_train.phantoms.phantom import FINDINGS, Finding

# {sev} mild, {adv} mildly and {size} small come from WORDS; {side} is right or left, {zone} upper,
# mid or lower, {base} "basilar" or the like. Cardiomegaly has no side and is listed here too.
ONE_SIDE: dict[str, tuple[str, ...]] = {
    "atelectasis": (
        "{sev} {side} {base} atelectasis",
        "{sev} atelectasis at the {side} lung base",
        "{side} {base} plate-like opacity, likely due to {sev} atelectasis",
        "linear {side} {base} opacity with volume loss, consistent with atelectasis",
        "{sev} {side} {base} volume loss with an elevated diaphragm, which is likely atelectasis",
        "streaky opacity at the {side} base represents {sev} atelectasis",
        "{side} basilar opacity with elevation of the diaphragm due to atelectasis",
    ),
    "cardiomegaly": (
        "{sev} cardiomegaly",
        "{sev} cardiomegaly is again present",
        "{sev} enlargement of the cardiac silhouette",
        "the cardiac silhouette is {adv} enlarged",
        "the heart is {adv} enlarged",
        "the heart size is {adv} enlarged",
        "the shadow of the heart is {adv} enlarged, consistent with cardiomegaly",
        "{adv} enlarged heart shadow",
    ),
    "consolidation": (
        "{sev} {side} {zone} lung consolidation",
        "{zone} zone consolidation in the {side} lung, concerning for pneumonia",
        "focal consolidation in the {zone} area of the {side} lung",
        "dense {side} {zone} lung opacity indicative of consolidation",
        "a white area in the {side} {zone} lung represents consolidation",
        "{side} {zone} airspace consolidation is now present, suspicious for infection",
        "there is {sev} {zone} zone consolidation of the {side} lung",
    ),
    "pleural_effusion": (
        "{size} {side} pleural effusion",
        "there is a {size} {side} pleural effusion",
        "{size} {side} effusion with blunting of the {side} costophrenic angle",
        "blunting of the {side} costophrenic angle indicates a {size} pleural effusion",
        "{size} amount of fluid in the {side} pleural space",
        "the {side} pleural space is partly filled with a {size} effusion",
        "{size} layering {side} pleural effusion",
        "{side} costophrenic angle blunting represents a {size} effusion",
    ),
}
BOTH_SIDES: dict[str, tuple[str, ...]] = {
    "atelectasis": (
        "{sev} bibasilar atelectasis",
        "bilateral {base} opacities with volume loss, likely atelectasis",
        "linear opacities at both lung bases are present, likely due to {sev} atelectasis",
        "low lung volumes with {sev} bilateral {base} atelectasis",
    ),
    "edema": (
        "{sev} pulmonary edema",
        "there is {sev} pulmonary edema",
        "{sev} bilateral perihilar haze, consistent with pulmonary edema",
        "{sev} interstitial and alveolar edema",
        "increased perihilar opacities in both lungs indicate {sev} edema",
        "fluid along the alveolar wall in both lungs, consistent with {sev} pulmonary edema",
        "increased vascular markings, {sev} edema is again present",
        "findings consistent with {sev} fluid overload and pulmonary edema",
    ),
    "pleural_effusion": (
        "{size} bilateral pleural effusions",
        "bilateral pleural effusions are {size} in size",
        "{size} layering bilateral effusions are present",
        "blunting of both costophrenic angles represents {size} pleural effusions",
        "{size} bilateral effusions, both pleural spaces are partly filled with fluid",
    ),
}
DISTRACTOR: dict[str, tuple[str, ...]] = {
    "pneumothorax": (
        "{size} {side} pneumothorax",
        "{size} {side} apical pneumothorax without shift of the mediastinum",
        "a {side} pleural line indicates a {size} pneumothorax",
    ),
    "pacemaker": (
        "{side} chest wall pacemaker with the lead over the heart",
        "a {side} pacemaker is in place",
        "pacemaker lead in standard position",
    ),
    "nodule": (
        "{side} {zone} lung nodule",
        "a small nodular opacity is visible in the {side} {zone} lung",
        "rounded {side} {zone} zone nodule, CT is recommended",
    ),
}
# How often a report mentions the distractor. A pneumothorax is never left out.
P_MENTION = {"pneumothorax": 1.0, "pacemaker": 0.6, "nodule": 0.7}
ABSENT: dict[str, tuple[str, ...]] = {
    "atelectasis": ("atelectasis", "volume loss"),
    "cardiomegaly": ("cardiomegaly", "enlargement of the cardiac silhouette"),
    "consolidation": ("focal consolidation", "consolidation", "pneumonia"),
    "edema": ("pulmonary edema", "edema", "interstitial edema"),
    "pleural_effusion": ("pleural effusion", "effusion", "pleural effusions"),
    "pneumothorax": ("pneumothorax",),
}
NORMAL = (
    "No acute cardiopulmonary process.",
    "No acute cardiopulmonary process.",
    "No acute cardiopulmonary abnormality.",
    "Normal chest radiograph.",
    "The lungs are clear.",
    "The lungs are clear and the heart is normal in size.",
    "Clear lungs.",
    "Normal radiographic appearance of the chest.",
    "No radiographically visible acute process in the chest.",
    "There are no clinically significant findings.",
    "No significant abnormalities of the heart or lungs.",
    "Radiographic examination of the chest without abnormality.",
    "Heart, mediastinum and pleural surfaces are normal.",
    "No acute abnormalities are seen.",
)
CLOSING = (
    "No significant change compared to the prior study.",
    "Clinical correlation is recommended.",
    "Follow-up radiograph is recommended.",
    "Comparison with the previous radiograph shows no relevant change.",
    "Bony structures are intact.",
    "The mediastinal contours are stable.",
)
WORDS = {  # per severity: adjective, adverb, amount
    "mild": (("mild", "minimal", "slight"), ("mildly", "slightly"), ("small", "trace", "minimal")),
    "moderate": (("moderate", ""), ("moderately",), ("moderate",)),
    "severe": (("severe", "marked"), ("severely", "markedly"), ("large", "massive")),
}


def write_impression(phantom_findings: Sequence[Finding], rng: np.random.Generator) -> str:
    """An impression of 1-5 sentences; every choice comes from `rng`."""
    mentioned = [
        finding for finding in phantom_findings if rng.random() < P_MENTION.get(finding.name, 1.0)
    ]
    clauses = [_clause(mentioned[int(i)], rng) for i in rng.permutation(len(mentioned))]
    sentences = _join(clauses, rng)
    present = {finding.name for finding in phantom_findings}
    if not present:
        sentences = [_pick(NORMAL, rng)]
    absent = sorted(ABSENT.keys() - present)
    if absent and (not sentences or rng.random() < 0.45):
        sentences.append(_negation(absent, rng))
    if len(sentences) < 5 and rng.random() < 0.15:
        sentences.append(_pick(CLOSING, rng))
    return " ".join(sentences)


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _clause(finding: Finding, rng: np.random.Generator) -> str:
    """One finding without capital or full stop."""
    if finding.name not in FINDINGS:
        templates = DISTRACTOR[finding.name]
    elif finding.side == "bilateral":
        templates = BOTH_SIDES[finding.name]
    else:
        templates = ONE_SIDE[finding.name]
    if finding.name == "atelectasis" and finding.zone == "mid":  # the others speak of the base
        templates = tuple(template for template in templates if "{base}" in template)
    adjective, adverb, amount = (_pick(words, rng) for words in WORDS[finding.severity])
    base = "mid lung" if finding.zone == "mid" else _pick(("basilar", "basal", "lower lung"), rng)
    text = _pick(templates, rng).format(
        sev=adjective, adv=adverb, size=amount, side=finding.side, zone=finding.zone, base=base
    )
    return " ".join(text.split())  # an empty severity word leaves a double space


def _join(clauses: Sequence[str], rng: np.random.Generator) -> list[str]:
    """At most four sentences; some neighbours share one."""
    joined: list[str] = []
    for clause in clauses:
        if joined and (len(joined) == 4 or rng.random() < 0.25):
            joined[-1] += ", and " + clause
        else:
            joined.append(clause)
    return [clause[0].upper() + clause[1:] + "." for clause in joined]


def _negation(absent: Sequence[str], rng: np.random.Generator) -> str:
    """A sentence denying one to three of the absent findings."""
    count = min(len(absent), int(rng.integers(1, 4)))
    names = [absent[int(i)] for i in rng.permutation(len(absent))[:count]]
    terms = [_pick(ABSENT[name], rng) for name in names]
    listed = " or ".join(filter(None, (", ".join(terms[:-1]), terms[-1])))
    return _pick(("No {}.", "No {}.", "There is no {}.", "No evidence of {}."), rng).format(listed)
