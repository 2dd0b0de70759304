"""python -m pytest tests/infer/test_report_browser.py -- the report in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.infer.browser import Browser, find_browser
from tests.infer.report_files import GEOMETRY, LABELS, film, report, scored, study
from tier_infer.bundle import NOTICE
from tier_infer.cells import cell_boxes
from tier_infer.geometry import GEOMETRIES
from tier_infer.report.overlay import OPACITY

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium or google-chrome here")
TAB, RIGHT, END = ("Tab", 9), ("ArrowRight", 39), ("End", 35)
OPACITY_OF = "getComputedStyle(document.querySelector('#study-1 .heat-{}')).opacity"
SHOWN = "getComputedStyle(document.querySelector('#study-1 .heat-{}')).display"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def shown(browser: Browser, tmp_path: Path) -> Browser:
    """Two studies, three films, two refused images, hostile names; opened from a file."""
    report(tmp_path / "report.html")
    browser.open(tmp_path / "report.html")
    return browser


def requests(browser: Browser) -> list[str]:
    told = browser.told("Network.requestWillBeSent")
    return [r["request"]["url"] for r in told if not r["request"]["url"].startswith("data:")]


def test_the_page_makes_no_request_and_breaks_no_rule_of_its_own(
    shown: Browser, tmp_path: Path
) -> None:
    shown.js("document.documentElement.scrollTop = 1e6")
    assert requests(shown) == [(tmp_path / "report.html").as_uri()]
    assert shown.told("Log.entryAdded") == []  # a wrong hash in the policy would stand here
    assert shown.told("Runtime.exceptionThrown") == []


def test_nothing_that_is_put_into_the_page_runs_or_loads(browser: Browser, tmp_path: Path) -> None:
    text = report(tmp_path / "clean.html")
    address = "http://localhost:9/x.png"  # nobody listens there
    foreign = (
        f'<script>window.taken = 1</script><img src="{address}" onerror="window.taken = 2">'
        '<p style="opacity:.123" id="styled">x</p>'
    )
    (tmp_path / "policy.html").write_text(text.replace("</main>", foreign + "</main>"))
    browser.open(tmp_path / "policy.html")
    blocked = browser.told("Log.entryAdded")
    assert browser.js("window.taken ?? null") is None
    assert browser.js("getComputedStyle(document.querySelector('#styled')).opacity") == "1"
    assert len(blocked) >= 3
    assert all("Content Security Policy" in entry["entry"]["text"] for entry in blocked)
    assert browser.js("document.querySelector('.strength').hidden") is False  # our own still runs

    start = text.index("<meta http-equiv")
    end = text.index(">", start) + 1
    open_page = text[:start] + text[end:].replace("</main>", foreign + "</main>")
    (tmp_path / "open.html").write_text(open_page)
    browser.open(tmp_path / "open.html")  # the same without the policy: the test can see both
    assert browser.js("window.taken ?? null") is not None
    assert address in requests(browser)


def test_names_are_text_and_never_markup(shown: Browser) -> None:
    assert shown.js("document.title") == "Chest radiograph scores"
    assert shown.js("document.scripts.length") == 1
    assert shown.js("document.querySelectorAll('img, iframe, object, embed, b b').length") == 0
    assert "<script>document.title='taken'</script>\\x1b[2J" in shown.js("document.body.innerText")
    assert "test <bundle>" in shown.js("document.body.innerText")


def test_the_slider_changes_the_opacity_of_the_heat(shown: Browser) -> None:
    assert float(shown.js(OPACITY_OF.format(0))) == pytest.approx(OPACITY)
    shown.js("document.querySelector('#study-1-strength').focus()")
    shown.press(*RIGHT)
    assert float(shown.js(OPACITY_OF.format(0))) == pytest.approx(OPACITY + 0.05)
    assert shown.js("document.querySelector('#study-1 output').textContent") == "40 %"
    shown.press(*END)
    assert float(shown.js(OPACITY_OF.format(3))) == 1
    other = "getComputedStyle(document.querySelector('#study-2 .heat-0')).opacity"
    assert float(shown.js(other)) == pytest.approx(OPACITY)  # each study has its own


def test_arrow_keys_choose_the_label(shown: Browser) -> None:
    layers = range(len(LABELS))
    assert [shown.js(SHOWN.format(n)) for n in layers] == ["inline"] + ["none"] * 4
    shown.js("document.querySelector('#study-1-0').focus()")
    shown.press(*RIGHT)
    assert [shown.js(SHOWN.format(n)) for n in layers][:3] == ["none", "inline", "none"]
    assert shown.js("document.querySelector('#study-1 .told-1').checkVisibility()") is True
    for _ in layers:
        shown.press(*RIGHT)  # past the last label, film only, and around
    assert shown.js("document.querySelector('#study-1-film').checked") is False
    shown.click("#study-1 [for='study-1-film']")
    assert [shown.js(SHOWN.format(n)) for n in layers] == ["none"] * 5
    shown.click("#study-1 tbody [for='study-1-3']")  # a row of the table chooses, too
    assert shown.js(SHOWN.format(3)) == "inline"


def test_tab_visits_every_control_in_reading_order_and_shows_where_it_is(shown: Browser) -> None:
    visited, outlines = [], []
    for _ in range(9):
        shown.press(*TAB)
        visited.append(
            shown.js("(e => e.id || e.getAttribute('href') || e.tagName)(document.activeElement)")
        )
        outlines.append(
            shown.js(
                "(e => getComputedStyle(e.type == 'radio' ? e.nextElementSibling : e)"
                ".outlineStyle)(document.activeElement)"
            )
        )
    assert visited[:7] == [
        "#run",
        "#study-1",
        "#study-2",
        "study-1-0",
        "study-1-strength",
        "study-2-0",
        "study-2-strength",
    ]
    assert set(outlines[:7]) == {"solid"}


def test_without_script_only_the_slider_is_missing(browser: Browser, tmp_path: Path) -> None:
    report(tmp_path / "report.html")
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(tmp_path / "report.html")
        assert browser.js("document.querySelector('.strength').checkVisibility()") is False
        assert float(browser.js(OPACITY_OF.format(0))) == pytest.approx(OPACITY)
        browser.click("#study-1 [for='study-1-2']")
        assert [browser.js(SHOWN.format(n)) for n in (0, 2)] == ["none", "inline"]
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_every_control_and_picture_has_a_name(shown: Browser) -> None:
    nodes: list[dict[str, Any]] = shown.call("Accessibility.getFullAXTree")["nodes"]
    seen: dict[str, list[str]] = {}
    for node in nodes:
        if not node.get("ignored"):
            role = node.get("role", {}).get("value", "")
            seen.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    assert seen["radio"][: len(LABELS)] == [label.replace("_", " ") for label in LABELS]
    assert seen["slider"] == ["Opacity", "Opacity"]
    pictures = [name for role in ("image", "img") for name in seen.get(role, [])]
    assert len([name for name in pictures if "radiograph" in name]) == 3
    for role in ("radio", "slider", "link", "image", "img", "group", "table", "heading"):
        assert all(seen.get(role, ["-"])), role


def test_cells_stand_where_the_geometry_says(browser: Browser, tmp_path: Path) -> None:
    image = scored(height=900)
    image.display = film(900, 600)
    report(tmp_path / "one.html", [study(1, image)])
    browser.open(tmp_path / "one.html")
    boxes = cell_boxes(900, 600, GEOMETRY, 7)
    drawn = browser.js(
        "(f => [...document.querySelectorAll('.heat-0 path')].map(e => { const r ="
        " e.getBoundingClientRect(); return [(r.left - f.left) / f.width, (r.top - f.top) /"
        " f.height, (r.right - f.left) / f.width, (r.bottom - f.top) / f.height]; }))"
        "(document.querySelector('.film image').getBoundingClientRect())"
    )
    assert len(drawn) == 49
    for got, box in zip(drawn, boxes.reshape(-1, 4), strict=True):
        wanted = [box[0] / 600, box[1] / 900, box[2] / 600, box[3] / 900]
        assert got == pytest.approx(wanted, abs=1e-4)


def test_no_heat_hangs_over_the_film(browser: Browser, tmp_path: Path) -> None:
    """The element is wider than the film, and its clip would not cut at the film's edge."""
    image = scored(height=1000)
    image.display = film(1000, 400)
    geometry = GEOMETRIES["chexzero-320pad-224"]
    for smooth, tag in ((False, "path"), (True, "image")):
        report(tmp_path / "framed.html", [study(1, image)], geometry, smooth=smooth)
        browser.open(tmp_path / "framed.html")
        element, shown, heat = browser.js(
            "(r => ['.film', '.film > image'].map(s => r(document.querySelector(s))).concat("
            f"[[...document.querySelectorAll('.heat-0 {tag}')].map(r)]))"
            "(e => (b => [b.left, b.top, b.right, b.bottom])(e.getBoundingClientRect()))"
        )
        assert element[2] - element[0] > shown[2] - shown[0] + 50  # there is room to hang over
        edges = [[pick(b[n] for b in heat) for pick in (min, max)] for n in range(4)]
        outer = [edges[0][0], edges[1][0], edges[2][1], edges[3][1]]
        assert outer == pytest.approx(shown, abs=0.6)


CONTRAST = """
(() => {
  const channel = v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
  const light = c => .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]);
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = numbers(getComputedStyle(e).backgroundColor);
      if (c.length == 3 || c[3] == 1) return c;
    }
    return [255, 255, 255];
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility() || e.closest("svg")) continue;
    const a = light(numbers(getComputedStyle(e).color)), b = light(ground(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    count += 1;
    if (ratio < 4.5) poor.push([walker.currentNode.data.slice(0, 40), ratio]);
  }
  return [count, poor];
})()
"""


def test_all_text_has_the_contrast_of_wcag_aa(shown: Browser) -> None:
    count, poor = shown.js(CONTRAST)
    assert count > 80
    assert poor == []


def test_a_narrow_window_needs_no_scrolling_aside(shown: Browser) -> None:
    metrics = {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    shown.call("Emulation.setDeviceMetricsOverride", **metrics)
    try:
        assert shown.js("document.scrollingElement.scrollWidth") <= 360
        assert shown.js("document.querySelector('.notice').getBoundingClientRect().top") == 0
        shown.js("scrollTo(0, 1500)")
        assert shown.js("document.querySelector('.notice').getBoundingClientRect().top") == 0
    finally:
        shown.call("Emulation.clearDeviceMetricsOverride")


def test_the_printed_page_keeps_notice_heat_and_scale(shown: Browser) -> None:
    shown.call("Emulation.setEmulatedMedia", media="print")
    try:
        notice = "getComputedStyle(document.querySelector('.notice'))"
        assert shown.js(f"{notice}.display") == "table-header-group"  # repeated on every sheet
        assert shown.js("document.querySelector('.notice').innerText") == NOTICE
        assert shown.js(SHOWN.format(0)) == "inline"
        table = "getComputedStyle(document.querySelector('.table'))"
        assert shown.js(f"{table}.overflowX") == "visible"  # paper has no scroll bar to pull
        for gone in ("nav", ".strength", "#study-1 [for='study-1-1']"):
            assert shown.js(f'document.querySelector("{gone}").checkVisibility()') is False
        for kept in ("#study-1 [for='study-1-0']", ".scale", ".film", ".prompts"):
            assert shown.js(f'document.querySelector("{kept}").checkVisibility()') is True
    finally:
        shown.call("Emulation.setEmulatedMedia", media="")
    assert len(shown.call("Page.printToPDF", printBackground=False)["data"]) > 20_000
