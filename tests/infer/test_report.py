"""python -m pytest tests/infer/test_report.py -- the page as a file: content, policy, escapes."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.infer.report_files import (
    GEOMETRY,
    HOSTILE,
    LABELS,
    PROMPTS,
    fake_bundle,
    film,
    refused,
    report,
    scored,
    study,
    two_studies,
)
from tier_infer.bundle import NOTICE
from tier_infer.cells import cell_boxes
from tier_infer.geometry import GEOMETRIES
from tier_infer.report.colours import colours, hex_colour
from tier_infer.report.film import MAX_FILM_BYTES, describe_heat, draw_film, film_uri, plain
from tier_infer.report.overlay import heat_field
from tier_infer.report.page import Prompts, prompts_of, write_report
from tier_infer.scoring import Selection
from tier_infer.words import CAUTION, FLAG_WORDS, by_weight, flag_words

FLAGS = [
    "view_unknown",
    "enlarged",
    "window_ignored",
    "several_windows",
    "lossy",
    "burned_in_annotation",
    "body_part_unknown",
    "modality_missing",
    "high_bits_masked",
    "pixel_padding",
    "padding_inside",
    "secondary_capture",
    "patches_untrained",
    "pediatric",
    "oriented",
    "aspect_resampled",
    "no_meta",
    "preamble",
    "intensity_linear",
    "outliers",
    "low_contrast",
    "clipped",
    "modality_lut",
    "grey_from_colour",
    "exif_rotated",
    "duplicate",
    "polarity_suspect",
    "rotation_suspect",
    "unlike_chest",
]
VOID = {"meta", "link", "input", "br"}


class Outline(HTMLParser):
    """Every tag with its attributes, and all text; refuses tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def outline(text: str) -> Outline:
    parsed = Outline()
    parsed.feed(text)
    parsed.close()
    assert parsed._open == []
    return parsed


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(tmp_path_factory.mktemp("page") / "report.html")


def test_the_page_holds_every_study_image_score_flag_and_refusal(page: str) -> None:
    text = outline(page).text
    for part in two_studies():
        for z in part.scores.values():
            assert f"{z:+.4f}" in text
        for image in part.images:
            assert all(f"{z:+.4f}" in text for z in image.scores.values())
            assert all(flag in text and flag_words(flag) in text for flag in image.flags)
    assert "study-1: 2 of 4 images scored" in text
    assert "2 studies; images: 3 scored, 1 not evaluated, 1 failed" in text
    assert text.count("the JPEG 2000 stream is damaged <b>here</b>") == 2
    assert "not probabilities" in text


def test_the_page_says_what_made_it(page: str) -> None:
    text = outline(page).text
    manifest = fake_bundle().manifest
    for known in (
        manifest.bundle_sha256,
        "c" * 64,
        "e" * 64,
        "5" * 64,
        "test <bundle>",
        "phantoms & films",
        "cpu, fp32",
        "tier-224-imagenet, mimic-jpg",
        "recipe paper",
    ):
        assert known in text, known
    for for_it, against in PROMPTS.values():
        assert all(sentence in text for sentence in (*for_it, *against))


def test_the_notice_is_the_first_thing_said(page: str) -> None:
    body = outline(page[page.index("<body>") : page.index("</body>")] + "</body>")
    assert body.text.strip().startswith(NOTICE)


def test_the_policy_allows_what_stands_in_the_page_and_no_more(page: str) -> None:
    (policy,) = (
        m["content"] or ""
        for m in outline(page).all("meta")
        if m.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    assert page.index("Content-Security-Policy") < page.index("<style>")


def test_nothing_in_the_page_points_outside(page: str) -> None:
    assert "http:" not in page
    assert "https:" not in page
    assert "file:" not in page
    assert "@import" not in page
    assert "url(" not in page
    for tag, attributes in outline(page).tags:
        for key in ("src", "href", "action", "srcset", "xlink:href"):
            value = attributes.get(key) or ""
            assert value.startswith(("data:", "#")) or not value, (tag, value)
        assert not any(key.startswith("on") or key == "style" for key in attributes), tag


def test_links_and_labels_lead_somewhere_and_ids_are_unique(page: str) -> None:
    parsed = outline(page)
    ids = [a["id"] for _, a in parsed.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    assert {(a["href"] or "")[1:] for a in parsed.all("a")} <= set(ids)
    assert {a["for"] for a in parsed.all("label")} <= set(ids)


def test_hostile_text_stays_text(page: str) -> None:
    parsed = outline(page)
    assert len(parsed.all("script")) == 1
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert plain(HOSTILE) in page
    assert "<script>document.title" in parsed.text
    assert plain("\udcff\ud800") == "\\udcff\\ud800"
    assert plain("a\n\x00<&\"'>") == "a\\n\\x00&lt;&amp;&quot;&#x27;&gt;"


def test_hostile_prompts_and_labels_stay_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    image = scored()
    assert image.heat is not None
    image.scores, image.heat = {evil: 0.5}, image.heat[:1]
    bundle = fake_bundle(evil)
    prompts = {evil: ([evil], [])}
    path = tmp_path / "r.html"
    write_report(path, [study(1, image)], bundle, (evil, "fp32"), prompts, GEOMETRY)
    parsed = outline(path.read_text(encoding="utf-8"))
    assert len(parsed.all("script")) == 1
    assert parsed.text.count(evil) >= 5


def test_cells_carry_the_colours_and_boxes_of_the_overlay(tmp_path: Path) -> None:
    image = scored(height=900)
    assert image.heat is not None
    text = report(tmp_path / "r.html", [study(1, image)])
    layer = re.findall(r'<g class="heat heat-2".*?</g>', text, flags=re.S)[0]
    drawn = re.findall(
        r'd="M([\d.]+) ([\d.]+)H([\d.]+)V([\d.]+)H[\d.]+Z" fill="(#\w+)"><title>Z ([-+.\d]+)', layer
    )
    assert len(drawn) == 49
    boxes = cell_boxes(900, 600, GEOMETRY, 7).reshape(-1, 4)
    for cell, box, z in zip(drawn, boxes, image.heat[2].ravel(), strict=True):
        assert [float(v) for v in cell[:4]] == pytest.approx(list(box), abs=0.006)
        assert cell[4] == hex_colour(float(z))
        assert float(cell[5]) == pytest.approx(float(z), abs=0.006)
    assert 'viewBox="0 0 600 900"' in text


def boxes_of(layer: str) -> list[list[float]]:
    """[left, top, right, bottom] of every rectangle drawn as a path."""
    found = re.findall(r'd="M([-\d.]+) ([-\d.]+)H([-\d.]+)V([-\d.]+)H', layer)
    return [[float(value) for value in row] for row in found]


@pytest.mark.parametrize("side", [7, 15])
@pytest.mark.parametrize("preset", ["chexzero-320pad-224", "medclip-224"])
def test_cells_of_a_black_frame_are_cut_off_at_the_film(
    preset: str, side: int, tmp_path: Path
) -> None:
    """By us: the element is often wider than the film in it, and would show what hangs over."""
    geometry = GEOMETRIES[preset]
    image = scored(height=900, side=side)
    assert image.heat is not None
    text = report(tmp_path / "r.html", [study(1, image)], geometry, side)
    layer = re.findall(r'<g class="heat heat-1".*?</g>', text, flags=re.S)[0]
    drawn = boxes_of(layer)
    boxes = cell_boxes(900, 600, geometry, side).reshape(-1, 4)
    shown = [n for n, box in enumerate(boxes) if box[2] > 0 and box[0] < 600]
    assert len(drawn) == len(shown) < side * side
    assert re.findall(r'fill="(#\w+)"', layer) == [
        hex_colour(float(image.heat[1].ravel()[n])) for n in shown
    ]
    assert min(box[0] for box in drawn) == min(box[1] for box in drawn) == 0
    assert max(box[2] for box in drawn) == 600
    assert max(box[3] for box in drawn) == pytest.approx(900, abs=3)  # 319 of 320 rows
    covered = sum((b[2] - b[0]) * (b[3] - b[1]) for b in drawn)
    assert covered == pytest.approx(600 * 900, rel=0.005)
    (frame,) = boxes_of(re.findall(r'<path class="frame"[^>]*>', text)[0])
    assert frame == pytest.approx([0, 0, 600, 900], abs=3)
    assert "cells beside the film are not shown" in text
    assert "Outside the dashed frame" not in text
    assert f"{side} x {side} cells" in text


def test_a_smooth_layer_is_cut_off_at_the_film_too() -> None:
    """Its samples are the field of all cells where the film is: the frame still bends it."""
    geometry, side = GEOMETRIES["medclip-224"], 7
    cells = np.random.default_rng(0).uniform(-1, 1, (side, side)).astype(np.float32)
    film_shape = (896, 448)  # the frame takes a cell and three quarters on either side
    text = draw_film(np.zeros(film_shape, np.uint8), cells[None], geometry, title="", smooth=True)
    layer = re.findall(r'<g class="heat heat-0".*?</g>', text, flags=re.S)[0]
    found = re.findall(r' (x|y|width|height)="([\d.]+)"', layer)
    placed = {key: float(value) for key, value in found}
    assert placed == {"x": 0, "y": 0, "width": 448, "height": 896}
    with decoded(re.findall(r'href="([^"]+)"', layer)[0]) as picture:
        samples = np.asarray(picture)  # [rows, columns, 3]
    assert samples.shape[:2] == (56, 28)  # 8 per cell
    z = heat_field(cells, 56, 28, film_shape, geometry, smooth=True)  # the overlay's own sampling
    assert np.abs(samples.astype(int) - colours(z).astype(int)).max() <= 1


def test_words_about_heat_leave_the_frame_out(tmp_path: Path) -> None:
    image = scored(height=900, side=7)
    assert image.heat is not None
    image.heat[:] = 0.1
    image.heat[:, 3, 0] = 1.1  # beside the film
    image.heat[:, 2, 4] = 0.6
    text = report(tmp_path / "r.html", [study(1, image)], GEOMETRIES["medclip-224"])
    assert "to +0.60, the highest in row 3 of 7 from the top, column 5 of 7 from the left" in text
    assert "1.10" not in text


def test_smoothing_is_said(tmp_path: Path) -> None:
    hard = report(tmp_path / "hard.html")
    soft = report(tmp_path / "soft.html", smooth=True)
    assert "unsmoothed" in hard
    assert "smoothed (bicubic)" not in hard
    assert "smoothed (bicubic)" in soft
    assert "unsmoothed" not in soft
    layer = re.findall(r'<g class="heat heat-0".*?</g>', soft, flags=re.S)[0]
    assert layer.count("<image") == 1
    assert "<title>" not in layer


def decoded(uri: str) -> Any:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize("shape", [(2300, 1900), (90, 110), (1, 4)], ids=str)
def test_films_are_shrunk_never_enlarged_and_marked_as_ours(shape: tuple[int, int]) -> None:
    with decoded(film_uri(film(*shape))) as picture:
        assert max(picture.size) == min(1024, max(shape))
        assert picture.getexif()[0x0131] == "tier-infer"
        assert picture.mode == "L"


def test_every_picture_in_the_page_is_marked_as_ours(page: str) -> None:
    pictures = [a["href"] or "" for a in outline(page).all("image")]
    assert len(pictures) == 3 + 2  # films, and a colour bar per study
    for uri in pictures:
        with decoded(uri) as picture:
            mark = picture.info.get("Software") or picture.getexif().get(0x0131)
            assert mark == "tier-infer"


def test_a_film_of_noise_stays_within_its_share() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1400, 1400)).astype(np.uint8)
    assert len(film_uri(noise)) < MAX_FILM_BYTES * 4 / 3 + 100


def test_two_large_images_with_five_labels_stay_below_2_mb(tmp_path: Path) -> None:
    images = [scored("a.dcm"), scored("b.dcm", seed=1)]
    rng = np.random.default_rng(0)
    for image in images:  # grainier than any film
        grainy = film(2500, 2100) + rng.normal(0, 40, (2500, 2100))
        image.display = grainy.clip(0, 255).astype("u1")
    for smooth in (False, True):
        report(tmp_path / "r.html", [study(1, *images)], smooth=smooth)
        assert (tmp_path / "r.html").stat().st_size < 2_000_000


def test_the_picture_for_people_is_shown() -> None:
    image = scored()
    image.display = np.full((700, 600), 200, np.uint8)
    with decoded(film_uri(image.display)) as picture:
        assert picture.getpixel((5, 5)) == 200


def test_burned_in_text_is_shown_only_when_allowed(tmp_path: Path) -> None:
    studies = [study(1, scored("a.dcm", "burned_in_annotation"))]
    closed = outline(report(tmp_path / "a.html", studies))
    assert "image/jpeg" not in (tmp_path / "a.html").read_text()
    assert "may hold a patient's name" in closed.text
    assert f"{studies[0].scores['edema']:+.4f}" in closed.text
    report(tmp_path / "b.html", studies, allow_burned_in=True)
    assert "image/jpeg" in (tmp_path / "b.html").read_text()


def test_uids_are_shown_only_when_asked(tmp_path: Path) -> None:
    image = scored()
    image.instance_key, image.study_key = "1.2.840.999", "1.2.840.111"
    image.patient_key = "digest of an id"
    closed = report(tmp_path / "a.html", [study(1, image)])
    assert "1.2.840" not in closed
    shown = report(tmp_path / "b.html", [study(1, image)], with_uids=True)
    assert "1.2.840.999" in shown
    assert "1.2.840.111" in shown
    assert "digest of an id" not in shown
    image.instance_key = "DOE^JANE"  # somebody typed a name into the place of a UID
    assert "DOE" not in report(tmp_path / "c.html", [study(1, image)], with_uids=True)


def test_studies_without_a_score_have_a_page_too(tmp_path: Path) -> None:
    lateral = scored("l.dcm")
    lateral.view = "lateral"
    text = outline(report(tmp_path / "r.html", [study(1, refused("x")), study(2, lateral)])).text
    assert "study-1: 0 of 1 images scored" in text
    assert "No frontal image was scored, so the study has no score." in text
    assert "not counted in the score of the study" in text
    assert outline(report(tmp_path / "none.html", [])).text.count("images: none") == 1


def test_an_image_scored_without_heat_has_a_row_and_no_picture(tmp_path: Path) -> None:
    image = scored()
    image.heat = None
    assert "No picture was kept." in report(tmp_path / "r.html", [study(1, image)])


def test_heat_in_words() -> None:
    cells = np.zeros((7, 7), np.float32)
    cells[2, 4] = 0.8
    assert describe_heat(cells).endswith(
        "from +0.00 to +0.80, the highest in row 3 of 7 from the top, column 5 of 7 from the left"
    )
    assert describe_heat(np.full((7, 7), np.nan, np.float32)) == "no cell has a finite value"
    fine = np.zeros((15, 15), np.float32)
    fine[14, 9] = 0.3
    assert describe_heat(fine).endswith("row 15 of 15 from the top, column 10 of 15 from the left")


def test_the_same_run_gives_the_same_bytes_and_leaves_no_residue(tmp_path: Path) -> None:
    assert report(tmp_path / "a.html") == report(tmp_path / "b.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_prompts_come_from_the_query_tables() -> None:
    labels = [{"id": "a", "positive": ["A is present."], "negative": []}, {"id": "b"}]
    tables: Any = {"one": SimpleNamespace(labels=labels), "two": SimpleNamespace(labels=labels)}
    selection = Selection(("b", "two:a"), tables, (("one", 1), ("two", 0)))
    assert prompts_of(selection) == {"b": ([], []), "two:a": (["A is present."], [])}


def test_typed_sentences_are_of_the_text_tower_and_of_no_set(tmp_path: Path) -> None:
    image = scored()
    assert image.heat is not None
    image.scores, image.heat = {"query": 0.5}, image.heat[:1]
    bundle = fake_bundle()
    sets = {"chexpert": {"sha256": "5" * 64, "labels": ["edema"]}}
    typed = replace(bundle.manifest, label_sets=sets, text={"sha256": "7" * 64})
    sets = {"chexpert": {"sha256": "5" * 64, "labels": ["query"]}}
    stored = replace(typed, label_sets=sets)
    evil = "<b>edema</b> &amp; \x1b\u202e"
    for manifest, known, other in ((typed, "7" * 64, "5" * 64), (stored, "5" * 64, "7" * 64)):
        found = replace(bundle, manifest=manifest)
        prompts: Prompts = {"query": ([evil], [])}
        write_report(
            tmp_path / "r.html", [study(1, image)], found, ("cpu", "fp32"), prompts, GEOMETRY
        )
        text = (tmp_path / "r.html").read_text(encoding="utf-8")
        assert known in text
        assert other not in text
        assert plain(evil) in text
        assert evil not in text


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_has_words(flag: str) -> None:
    assert FLAG_WORDS[flag].endswith(".")
    assert flag_words(flag) == FLAG_WORDS[flag]
    assert "_" not in FLAG_WORDS[flag]


def test_words_are_of_known_flags_and_doubts_come_first() -> None:
    assert set(FLAG_WORDS) == set(FLAGS)
    assert set(FLAGS) >= CAUTION
    assert by_weight(["lossy", "outliers", "lossy"]) == ["outliers", "lossy"]
    assert flag_words("new_flag") == "new flag"
    assert len(LABELS) == 5
