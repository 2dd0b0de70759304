"""python -m pytest tests/infer/test_label_names.py -- labels in any language."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.infer import tiny_bundle
from tier_infer.bundle import Bundle, load_bundle, sha256
from tier_infer.errors import IntegrityError, UsageError
from tier_infer.label_names import Names
from tier_infer.label_sets import language_code, load_label_set, parse_label_set
from tier_infer.scores import Scores, mean_of
from tier_infer.scoring import Selection, select_labels

HEART = {
    "id": "cardiomegaly",
    "name": "Cardiomegaly",
    "names": {"en": "Cardiomegaly", "de": "Herzvergrößerung", "es": "Cardiomegalia"},
}
WET = {"id": "edema", "name": "Edema", "names": {"en": "Edema", "de": "Lungenödem"}}
BARE = [{"id": "wet", "name": "Wet"}, {"id": "big", "name": "Big"}]  # as older bundles have them
Made = Callable[..., Bundle]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A bundle of these sets of two labels each, the first as default."""

    def make(**sets: list[dict[str, Any]]) -> Bundle:
        folder = tiny_bundle.write_bundle(tmp_path, "small-112")
        entries = {}
        for set_id, rows in sets.items():
            graph = onnx.load_from_string(tiny_bundle.queries())
            helper.set_model_props(graph, {"labels": json.dumps(rows), "text_sha256": "words"})
            data = graph.SerializeToString()
            path = f"queries/{set_id}.onnx"
            (folder / path).write_bytes(data)
            ids = [row["id"] for row in rows]
            entry = {"path": path, "sha256": sha256(data), "bytes": len(data), "labels": ids}
            entries[set_id] = entry
        before = load_bundle(folder).manifest
        manifest = replace(before, label_sets=entries, default_set=next(iter(sets)))
        (folder / "manifest.json").write_text(manifest.to_json())
        return load_bundle(folder)

    return make


@pytest.mark.parametrize(
    "asked",
    [
        "cardiomegaly",
        "CARDIOMEGALY",
        " Cardiomegalia ",
        "Herzvergrößerung",
        "HERZVERGRÖSSERUNG",
        "herzvergrösserung",
        unicodedata.normalize("NFD", "Herzvergrößerung"),
        "chest:herzvergrößerung",
    ],
)
def test_a_label_is_found_by_any_of_its_names(made: Made, asked: str) -> None:
    bundle = made(chest=[WET, HEART], other=BARE)
    selection = select_labels(bundle, [asked, "other:BIG"])
    assert selection.names == ("cardiomegaly", "other:big")
    assert selection.columns == (("chest", 1), ("other", 1))


def test_one_label_under_two_names_counts_once(made: Made) -> None:
    bundle = made(chest=[WET, HEART])
    assert select_labels(bundle, ["Lungenödem", "edema", "EDEMA"]).names == ("edema",)


def test_a_name_with_a_colon_is_no_set(made: Made) -> None:
    bundle = made(chest=[WET | {"names": {"de": "Befund: Ödem"}}, HEART], other=BARE)
    assert select_labels(bundle, ["befund: ödem"]).names == ("edema",)
    with pytest.raises(
        UsageError, match=r"label set 'befund' is not in the bundle; it has chest, other"
    ):
        select_labels(bundle, ["befund:wasser"])


def test_a_name_of_two_labels_is_refused_and_both_are_named(made: Made) -> None:
    rows = [WET, HEART | {"names": {"de": "lungenödem"}}]
    with pytest.raises(
        UsageError, match=r"'Lungenödem' is a name of .* edema, cardiomegaly of set"
    ):
        select_labels(made(chest=rows), ["Lungenödem"])


def test_what_is_an_id_means_that_label_in_a_foreign_bundle_too(made: Made) -> None:
    """Our own sets can't name a label like another's id; scripts ask by id."""
    rows = [WET, HEART | {"name": "Edema"}]
    assert select_labels(made(chest=rows), ["Edema"]).columns == (("chest", 0),)


def test_an_unknown_label_is_told_the_nearest_in_all_languages(made: Made) -> None:
    bundle = made(chest=[WET, HEART])
    with pytest.raises(UsageError, match=r"nearest: Herzvergrößerung \(cardiomegaly\)"):
        select_labels(bundle, ["Herzvergroesserung"])
    with pytest.raises(UsageError, match=r"nearest: .*cardiomegaly"):
        select_labels(bundle, ["cardiomegly"])
    with pytest.raises(UsageError, match=r"'xyz' is not in set chest; it has edema, cardiomegaly$"):
        select_labels(bundle, ["xyz"])


def test_a_long_list_is_cut() -> None:
    rows = [{"id": f"l{n}", "name": f"L{n}"} for n in range(25)]
    with pytest.raises(UsageError, match=r"it has l0, .*, l19 and 5 more"):
        Names("s", rows).find("????")


def test_labels_that_the_manifest_does_not_know_are_refused(made: Made) -> None:
    bundle = made(chest=[WET, HEART])
    sets = bundle.manifest.label_sets
    sets["chest"]["labels"] = ["edema", "other"]
    with pytest.raises(IntegrityError, match="other labels than the manifest"):
        select_labels(bundle, ["edema"])


def test_ten_thousand_labels_are_selected_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is searched for each label would be asked fifty million times."""
    asked = 0

    class Counted(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal asked
            asked += 1
            return str.__eq__(self, str(other))

        __hash__ = str.__hash__

    rows = [{"id": Counted(f"label_{n}"), "name": f"Label {n}"} for n in range(10_000)]
    names = Names("s", rows)
    assert [names.columns[names.find(f"LABEL {n}")] for n in range(10_000)] == [*range(10_000)]
    assert asked < 100_000


def test_a_language_is_shown_and_every_label_differs(made: Made) -> None:
    bundle = made(chest=[WET, HEART], other=[WET, HEART])
    selection = select_labels(bundle, ["edema", "cardiomegaly", "other:edema"])
    assert selection.display("DE") == {
        "edema": "Lungenödem (edema)",
        "cardiomegaly": "Herzvergrößerung",
        "other:edema": "Lungenödem (other:edema)",
    }
    sly = {"id": "sly", "names": {"de": "Lungenödem (edema)"}}
    shown = select_labels(
        made(chest=[WET, sly], other=[WET, HEART]), ["edema", "sly", "other:edema"]
    )
    assert shown.display("de") == {
        "edema": "Lungenödem (edema) (edema)",
        "sly": "Lungenödem (edema) (sly)",
        "other:edema": "Lungenödem (other:edema)",
    }


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("es", "1 labels have no name in es, e.g. edema; languages of these labels: de, en, es"),
        ("de-AT", "no name in de-AT"),
        ("german", "'german' is no language code"),
        ("", "no language code"),
    ],
)
def test_a_language_that_is_not_there_is_refused(made: Made, language: str, words: str) -> None:
    selection = select_labels(made(chest=[WET, HEART]), None)
    with pytest.raises(UsageError, match=words):
        selection.display(language)


def test_a_bundle_without_languages_has_none(made: Made) -> None:
    with pytest.raises(UsageError, match="languages of these labels: none"):
        select_labels(made(chest=BARE), None).display("en")


def test_an_undetermined_name_stands_in_every_language() -> None:
    class Typed:
        labels = [{"id": "query", "names": {"und": "Query"}}]  # noqa: RUF012

        def image_scores(self, found: Any) -> Any:
            return found

        def cell_scores(self, embeddings: Any) -> Any:
            return embeddings

    assert Selection(("query",), {"t": Typed()}, (("t", 0),)).display("de") == {"query": "Query"}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("de", "de"),
        ("DE", "de"),
        ("pt-br", "pt-BR"),
        ("PT_BR", "pt-BR"),
        ("zh-hant-tw", "zh-Hant-TW"),
        ("es-419", "es-419"),
        ("de-1996", "de-1996"),
        ("sl-rozaj-biske", "sl-rozaj-biske"),
        ("ast", "ast"),
    ],
)
def test_codes_are_spelt_as_bcp_47_does(text: str, code: str) -> None:
    assert language_code(text) == code


@pytest.mark.parametrize("text", ["", "d", "deutsch", "de-", "de--AT", "12", "de-A", "dé", "de at"])
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="BCP 47"):
        language_code(text)


def test_letters_that_need_a_joiner_are_a_name() -> None:
    """Persian and Hindi can't be written without the two joiners."""
    names = {"fa": "قلب\u200cها", "hi": "क्\u200dष"}
    row = {"id": "a", "positive": ["A."], "names": names}
    (label,) = parse_label_set({"set": "s", "label": [row]}, "t").labels
    assert label.names == {"en": "A"} | names


def test_names_are_read_and_the_own_language_is_among_them() -> None:
    row = {"id": "edema", "positive": ["Edema."], "names": {"PT-br": "Edema", "de": "Ödem"}}
    (label,) = parse_label_set({"set": "s", "label": [row]}, "t").labels
    assert label.names == {"en": "Edema", "pt-BR": "Edema", "de": "Ödem"}
    german = row | {"name": "Ödem", "names": {"en": "Edema"}}
    (label,) = parse_label_set({"set": "s", "language": "de", "label": [german]}, "t").labels
    assert label.names == {"de": "Ödem", "en": "Edema"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"names": ["Ödem"]}, "table of text"),
        ({"names": {"de": 5}}, "table of text"),
        ({"names": {"de": " "}}, "table of text"),
        ({"names": {"de": "Ödem\nforged line"}}, "table of text"),
        ({"name": "Edema\x1b[2J"}, "one line of text"),
        ({"name": "Edema, acute"}, "without a comma"),  # --labels would read two
        ({"names": {"de": "Ödem, akut"}}, "without a comma"),
        *(
            ({"name": f"Edema {c}acute"}, "one line of text")
            for c in "\u202e\u2066\u200b\u00ad\ufeff"
        ),
        ({"names": {"german": "Ödem"}}, "no language code"),
        ({"names": {"pt-BR": "Edema", "pt_br": "Oedema"}}, "one language twice"),
        ({"names": {"en": "Oedema"}}, "two names in en, 'Edema' and 'Oedema'"),
        ({"names": {"de": "Heart"}}, "the id of another label, heart"),
    ],
)
def test_names_that_would_mislead_are_refused(fields: dict[str, Any], words: str) -> None:
    rows = [{"id": "edema", "positive": ["A."]} | fields, {"id": "heart", "positive": ["B."]}]
    with pytest.raises(UsageError, match=words):
        parse_label_set({"set": "s", "label": rows}, "t")


@pytest.mark.parametrize("language", ["german", 5])
def test_the_language_of_a_set_is_a_code(language: object) -> None:
    rows = [{"id": "a", "positive": ["A."]}]
    with pytest.raises(UsageError, match="no language code"):
        parse_label_set({"set": "s", "language": language, "label": rows}, "t")


@pytest.mark.parametrize("language", ["en", "de", "es", "fr"])
def test_the_findings_of_the_paper_are_named_in_four_languages(language: str) -> None:
    labels = load_label_set("chexpert").labels
    assert len({label.names[language] for label in labels}) == 5


def test_scores_read_like_a_dict() -> None:
    z = np.array([0.5, -0.25], np.float32)
    scores = Scores({"a": 0, "b": 1}, z)
    as_dict = {"a": 0.5, "b": -0.25}
    assert scores == as_dict
    assert as_dict == scores
    assert dict(scores) == dict(scores.items()) == as_dict
    assert [*scores] == ["a", "b"]
    assert list(scores.values()) == [0.5, -0.25]
    assert repr(scores) == repr(as_dict)
    assert (len(scores), scores.get("c"), "b" in scores) == (2, None, True)
    assert {type(value) for value in scores.values()} == {type(scores["a"])} == {float}
    with pytest.raises(KeyError):
        scores["c"]


def test_the_mean_of_scores_is_that_of_their_numbers() -> None:
    """0.1 and 0.2 as float32 hold them, added in float64."""
    columns = {"a": 0, "b": 1}
    rows = [Scores(columns, np.array(z, np.float32)) for z in ([0.1, -1], [0.2, 0.5])]
    wanted = {"a": (float(np.float32(0.1)) + float(np.float32(0.2))) / 2, "b": -0.25}
    assert mean_of(rows) == wanted
    assert mean_of([dict(row) for row in rows]) == wanted
    assert mean_of(rows[:1]) == rows[0]
