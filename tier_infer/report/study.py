"""One study of a report: its films under the heat, its scores, and what was refused and why."""

from __future__ import annotations

from dataclasses import dataclass

from tier_infer.cells import cells_in_image
from tier_infer.geometry import Geometry
from tier_infer.output import uid
from tier_infer.report.colours import SCALE
from tier_infer.report.film import describe_heat, draw_film, draw_marker, draw_scale, plain
from tier_infer.report.overlay import OPACITY, may_show
from tier_infer.scoring import ImageResult
from tier_infer.studies import StudyResult, is_counted
from tier_infer.words import CAUTION, by_weight, flag_words

STATUS = {"scored": "scored", "not_evaluated": "not evaluated", "failed": "failed"}


@dataclass(frozen=True)
class Look:
    """What a run asked its report to show."""

    labels: tuple[str, ...]
    geometry: Geometry
    side: int  # cells per row and column
    with_uids: bool = False
    smooth: bool = False
    allow_burned_in: bool = False


def study_section(study: StudyResult, look: Look, first: bool) -> str:
    """`first`: no new sheet before it."""
    scored = [(n, i) for n, i in enumerate(study.images, start=1) if i.status == "scored"]
    refused = [(n, i) for n, i in enumerate(study.images, start=1) if i.status != "scored"]
    parts = [
        f'<section class="study{" first" if first else ""}" id="{plain(study.id)}">'
        f"<h2>{plain(study.id)}: {len(scored)} of {len(study.images)} images scored</h2>"
    ]
    shown = uid(study.images[0].study_key) if look.with_uids and study.images else None
    if shown:
        parts.append(f'<p class="hash">{plain(shown)}</p>')
    if scored:
        figures = [_figure(image, number, look) for number, image in scored]
        parts.append(_viewer(study, figures, look))
        parts.append(_score_table(study, scored, look))
    if refused:
        parts.append(_refusals(refused, look))
    return "".join(parts) + "</section>"


def _viewer(study: StudyResult, figures: list[str], look: Look) -> str:
    """Radio buttons before the films, because the style sheet looks only ahead."""
    name = plain(study.id)
    picks = [  # named by aria-label, since a second label stands in the table of scores
        f'<input class="pick pick-{n}" type="radio" name="{name}" id="{name}-{n}" '
        f'aria-label="{words}"{" checked" if n == 0 else ""}>'
        f'<label for="{name}-{n}">{words}</label>'
        for n, words in enumerate([spaced(label) for label in look.labels])
    ]
    picks.append(
        f'<input class="pick" type="radio" name="{name}" id="{name}-film">'
        f'<label for="{name}-film">film only</label>'
    )
    percent = round(100 * OPACITY)
    how = "smoothed (bicubic)" if look.smooth else "unsmoothed"
    return (
        f'<fieldset class="viewer"><legend>Heatmap</legend>{"".join(picks)}'
        f'<div class="strength" hidden><label for="{name}-strength">Opacity</label>'
        f'<input type="range" id="{name}-strength" min="0" max="100" step="5" value="{percent}">'
        f'<output for="{name}-strength">{percent} %</output></div>'
        f'<div class="films">{"".join(figures)}</div><div class="legend">{draw_scale()}'
        f'<p class="quiet">Z of each of {look.side} x {look.side} cells, {how}: red speaks for the '
        f"label, blue against it. Full colour at {SCALE:g}, arrows stand for all beyond. "
        f"{_outside(look.geometry)}</p></div></fieldset>"
    )


def _outside(geometry: Geometry) -> str:
    if geometry.rule == "short-side":
        return "Outside the dashed frame the network did not look."
    return (
        "The network saw the film on a black square; rows and columns count from its edge, and "
        "cells beside the film are not shown."
    )


def spaced(label: str) -> str:
    return plain(label.replace("_", " "))


def _figure(image: ImageResult, number: int, look: Look) -> str:
    film, told = image.display, ""
    if not may_show(image, look.allow_burned_in):
        picture = '<p class="nothing">No picture: the pixels may hold a patient\'s name.</p>'
    elif film is None or image.heat is None:
        picture = '<p class="nothing">No picture was kept.</p>'
    else:
        title = f"Image {number}, view {image.view}: radiograph under the chosen heatmap"
        picture = draw_film(film, image.heat, look.geometry, title=title, smooth=look.smooth)
        told = "".join(
            f'<p class="told told-{n}">{spaced(label)}: '
            f"{describe_heat(cells_in_image(cells, film.shape, look.geometry))}</p>"
            for n, (label, cells) in enumerate(zip(look.labels, image.heat, strict=True))
        )
    return (
        f"<figure>{picture}<figcaption>{_name(image, number, look)}, view {plain(image.view)}"
        f"{'' if is_counted(image) else ', not counted in the score of the study'}"
        f"{told}{_flags(image)}</figcaption></figure>"
    )


def _name(image: ImageResult, number: int, look: Look) -> str:
    shown = uid(image.instance_key) if look.with_uids else None
    identity = f' <span class="hash">{plain(shown)}</span>' if shown else ""
    return f'<b>Image {number}</b> <span class="path">{plain(image.path)}</span>{identity}'


def _flags(image: ImageResult) -> str:
    rows = [
        f"<li{' class=caution' if flag in CAUTION else ''}>"
        f"<b>{'Caution: ' if flag in CAUTION else ''}{plain(flag)}</b> "
        f"{plain(flag_words(flag))}</li>"
        for flag in by_weight(image.flags)
    ]
    return f'<ul class="flags">{"".join(rows)}</ul>' if rows else ""


def _score_table(study: StudyResult, scored: list[tuple[int, ImageResult]], look: Look) -> str:
    """Study and image scores; the label in the first column chooses its heatmap, too."""
    several = len(scored) > 1
    heads = "".join(
        f'<th scope="col" class="number">Image {n}</th>' for n, _ in (scored if several else ())
    )
    rows = []
    for n, label in enumerate(look.labels):
        z = study.scores.get(label)
        cells = "".join(
            f'<td class="number">{image.scores[label]:+.4f}</td>'
            for _, image in (scored if several else ())
        )
        whole = "none" if z is None else f"{z:+.4f}"
        rows.append(
            f'<tr><th scope="row"><label for="{plain(study.id)}-{n}">{spaced(label)}</label></th>'
            f'<td class="number">{whole}</td><td>{"" if z is None else draw_marker(z)}</td>'
            f"{cells}</tr>"
        )
    note = "" if study.scores else "<p>No frontal image was scored, so the study has no score.</p>"
    return (
        f'<div class="table"><table><caption>Score of the study: mean of its counted images'
        f'</caption><thead><tr><th scope="col">Label</th><th scope="col" class="number">Z</th>'
        f'<th scope="col">-{SCALE:g} to +{SCALE:g}</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _refusals(refused: list[tuple[int, ImageResult]], look: Look) -> str:
    rows = "".join(
        f"<tr><td>{_name(image, n, look)}{_flags(image)}</td>"
        f"<td>{STATUS.get(image.status, plain(image.status))}</td>"
        f"<td>{plain(image.message or '')} <code>{plain(image.reason or '')}</code></td></tr>"
        for n, image in refused
    )
    return (
        '<div class="table"><table><caption>Images without a score</caption><thead><tr>'
        '<th scope="col">Image</th><th scope="col">Answer</th><th scope="col">Why</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )
