"""`--report file.html`: one page for a run, readable offline, printable, and without a request.

Pictures are data: URIs, style and script stand in the page, and its policy allows nothing else:
`default-src 'none'`, style and script by their hashes. Without script the page shows the same,
but for the slider. Every text from a file name or a bundle goes through `plain`.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from tier_infer.bundle import ENCODERS, NOTICE, Bundle
from tier_infer.files import write_atomic
from tier_infer.geometry import Geometry
from tier_infer.pooling import shown as pool_text
from tier_infer.report.film import plain
from tier_infer.report.overlay import OPACITY
from tier_infer.report.study import STATUS, Look, spaced, study_section
from tier_infer.scoring import Selection
from tier_infer.sentences import NAME
from tier_infer.studies import StudyResult

PAGE = Path(__file__).parent
Prompts = dict[str, tuple[list[str], list[str]]]  # label → sentences for it, sentences against it


def prompts_of(selection: Selection) -> Prompts:
    """The sentences behind each label shown, as the bundle's query graphs carry them or as they
    were typed."""
    table: Prompts = {}
    for name, (set_id, column) in zip(selection.names, selection.columns, strict=True):
        label = selection.tables[set_id].labels[column]
        for_it, against = label.get("positive") or [], label.get("negative") or []
        table[name] = ([str(s) for s in for_it], [str(s) for s in against])
    return table


def write_report(
    path: Path,
    studies: list[StudyResult],
    bundle: Bundle,
    engine_info: tuple[str, str],
    prompts: Prompts,
    geometry: Geometry,
    *,
    choice: str = "",
    shown: Mapping[str, str] | None = None,
    with_uids: bool = False,
    smooth: bool = False,
    allow_burned_in: bool = False,
) -> None:
    """The images must have been scored with their heat kept. `engine_info`: device, precision.
    `choice`: of --device auto, why this device. `shown`: what each label is called in the reader's
    language; default: by its id."""
    called = shown or {name: name for name in prompts}
    studies = [_renamed(study, called) for study in studies]
    side = bundle.manifest.cells
    look = Look(tuple(called.values()), geometry, side, with_uids, smooth, allow_burned_in)
    sections = [study_section(study, look, index == 0) for index, study in enumerate(studies)]
    sentences = {called[name]: given for name, given in prompts.items()}
    body = [
        f"<h1>Chest radiograph scores</h1>{_summary(studies, bundle, engine_info)}",
        *sections,
        f'<section class="run" id="run"><h2>How these scores were made</h2>{_reading()}'
        f"{_prompt_table(sentences)}{_identity(bundle, engine_info, geometry, prompts, choice)}"
        "</section>",
    ]
    write_atomic(path, page("".join(body), len(prompts)).encode("utf-8"))


def _renamed(study: StudyResult, called: Mapping[str, str]) -> StudyResult:
    images = [
        replace(image, scores={called[name]: z for name, z in image.scores.items()})
        for image in study.images
    ]
    scores = {called[name]: z for name, z in study.scores.items()}
    return replace(study, images=images, scores=scores)


def page(body: str, labels: int) -> str:
    """The whole document around `body`, with a policy that allows what stands in it and no more."""
    style = (PAGE / "report.css").read_text(encoding="utf-8") + _layer_rules(labels)
    script = (PAGE / "report.js").read_text(encoding="utf-8")
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_source_hash(style)}'; script-src '{_source_hash(script)}'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="generator" content="tier-infer">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<link rel="icon" href="data:,">\n'  # else a browser asks the server for one
        f"<title>Chest radiograph scores</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<p class="notice" role="note">{NOTICE}</p>\n<main>\n{body}\n</main>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _source_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _layer_rules(labels: int) -> str:
    """The chosen radio button shows its layer: no script is needed for that."""
    rules = [f":root {{ --start: {OPACITY}; }}"]
    rules += [
        f".pick-{n}:checked ~ .films .heat-{n} {{ display: inline; }}\n"
        f".pick-{n}:checked ~ .films .told-{n} {{ display: block; }}"
        for n in range(labels)
    ]
    return "\n".join(rules) + "\n"


def _summary(studies: list[StudyResult], bundle: Bundle, engine_info: tuple[str, str]) -> str:
    counts = Counter(image.status for study in studies for image in study.images)
    told = ", ".join(f"{counts[key]} {words}" for key, words in STATUS.items() if counts[key])
    links = "".join(f'<li><a href="#{plain(s.id)}">{plain(s.id)}</a></li>' for s in studies)
    nav = f'<nav aria-label="Studies"><ul>{links}</ul></nav>' if len(studies) > 1 else ""
    plural = "study" if len(studies) == 1 else "studies"
    return (
        f"<p>{len(studies)} {plural}; images: {told or 'none'}. Scores are zero-shot margins Z in "
        "[-2, 2], not probabilities.</p>"
        f'<p class="quiet">Bundle {plain(bundle.manifest.name)} '
        f"<code>{plain(bundle.manifest.bundle_sha256[:12])}</code>, {plain(engine_info[0])} "
        f'{plain(engine_info[1])}. <a href="#run">How these scores were made</a></p>{nav}'
    )


def _reading() -> str:
    return (
        "<p>Z compares the image with sentences: its cosine with the mean of the sentences for a "
        "label, less that with the mean of those against it. It orders images by how strongly they "
        "speak for the label. It is not a probability, and 0 is no threshold.</p>"
    )


def _prompt_table(prompts: Prompts) -> str:
    def listed(sentences: list[str]) -> str:
        return f"<ul>{''.join(f'<li>{plain(s)}</li>' for s in sentences)}</ul>" if sentences else ""

    rows = "".join(
        f'<tr><th scope="row">{spaced(label)}</th><td>{listed(for_it)}</td>'
        f"<td>{listed(against) or 'none'}</td></tr>"
        for label, (for_it, against) in prompts.items()
    )
    return (
        '<h3 id="prompts">Prompts</h3><div class="table">'
        '<table class="prompts" aria-labelledby="prompts"><thead><tr>'
        '<th scope="col">Label</th><th scope="col">Sentences for it</th>'
        f'<th scope="col">Sentences against it</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _identity(
    bundle: Bundle,
    engine_info: tuple[str, str],
    geometry: Geometry,
    prompts: Prompts,
    choice: str,
) -> str:
    """Everything that must be equal for the same numbers to come out again."""
    manifest, (device, precision) = bundle.manifest, engine_info
    encoder = ENCODERS.get(precision, "")
    typed = NAME in prompts and NAME not in manifest.label_sets[manifest.default_set]["labels"]
    names = [name for name in prompts if not (typed and name == NAME)]
    sets = dict.fromkeys(name.rpartition(":")[0] or manifest.default_set for name in names)
    rows = [
        ("Program", f"tier-cxr {_version()}"),
        ("Bundle", manifest.name),
        ("Bundle SHA-256", manifest.bundle_sha256),
        *((f"Label set {s} SHA-256", str(manifest.label_sets[s]["sha256"])) for s in sets),
        *(
            (f"Label set {s} pools patch scores by", pool_text(p))
            for s in sets
            if (p := manifest.pool(s))
        ),
        *([("Text tower SHA-256", manifest.text_sha256)] if typed else []),
        *(("Checkpoint SHA-256", _checkpoint(entry)) for entry in manifest.checkpoint),
        ("Training data", manifest.training_data),
        ("Device, precision", f"{device}, {precision}"),
        *([("Choice of the device", choice)] if choice else []),
        ("Geometry, intensity", f"{geometry.name}, {manifest.intensity}"),
    ]
    if encoder in manifest.files:
        rows.insert(3, ("Encoder SHA-256", str(manifest.files[encoder]["sha256"])))
    items = "".join(
        f"<dt>{plain(key)}</dt><dd{' class=hash' if 'SHA' in key else ''}>{plain(value)}</dd>"
        for key, value in rows
    )
    return f"<h3>Model</h3><dl>{items}</dl>"


def _checkpoint(entry: dict[str, object]) -> str:
    recipe = entry.get("recipe")
    name = f" (recipe {recipe.get('name')})" if isinstance(recipe, dict) else ""
    return f"{entry.get('sha256')}{name}"


def _version() -> str:
    try:
        return metadata.version("tier-cxr")
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return "not installed"
