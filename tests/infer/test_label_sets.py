"""python -m pytest tests/infer/test_label_sets.py -- the sentences, and files that aren't any."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tier_infer.errors import UsageError
from tier_infer.label_sets import (
    FOLDER,
    load_label_set,
    normal_id,
    parse_label_set,
    set_from_names,
)

# SHA-256 of its 489 sentences in order, printed by medclip 0.0.3 itself
MEDCLIP_PROMPTS = "45a1c2a08cc290ec7d4510f75c82e19853602559ef06bf45c9c7cbd535c5a1f1"
FIVE = ["atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion"]
ROW = '[[label]]\nid = "a"\npositive = ["A."]\n'
HUNDRED = '["a"' + ', "a"' * 99 + "]"
BARE = '[[label]]\nid = "a"\n'


def test_chexpert_asks_the_sentences_of_the_paper() -> None:
    chexpert = load_label_set("chexpert")
    assert chexpert.id == "chexpert"
    assert [label.id for label in chexpert.labels] == FIVE
    assert [len(label.positive) for label in chexpert.labels] == [2, 3, 2, 2, 3]
    negatives = {label.negative for label in chexpert.labels}
    assert len(negatives) == 1  # all five labels are held against the same "No Finding" sentences
    (negative,) = negatives
    assert len(negative) == 5
    assert negative[0] == "The lungs are clear."
    assert chexpert.labels[4].name == "Pleural Effusion"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda p: p.stem)
def test_every_packaged_set_loads_and_is_named_like_its_file(path: Path) -> None:
    loaded = load_label_set(path.stem)
    assert loaded.id == path.stem
    assert load_label_set(str(path)) == loaded
    for label in loaded.labels:
        sentences = label.positive + label.negative
        assert all(s == " ".join(s.split()) for s in sentences)
        ends = {s[-1] == "." for s in sentences}
        words = path.stem in ("chexzero", "medclip", "padchest_chexzero")  # no sentences
        assert ends == ({True, False} if path.stem == "padchest_released" else {not words})


def test_released_code_differs_from_the_paper_in_two_things() -> None:
    """query_custom_anil.csv has one row twice, and getLabelEmbeddings adds 'No <label>.'"""
    paper, code = (load_label_set(name).labels for name in ("chexpert", "released_code"))
    assert [label.id for label in code] == FIVE
    for ours, theirs in zip(paper, code, strict=True):
        assert set(theirs.positive) == set(ours.positive)
        assert theirs.negative == (*ours.negative, f"No {ours.name}.")
        assert theirs.name == ours.name
    doubled = {label.id: len(label.positive) - len(set(label.positive)) for label in code}
    assert doubled == dict.fromkeys(FIVE, 0) | {"atelectasis": 1}
    assert code[0].positive.count("Atelectasis is present.") == 2
    assert code[4].negative[-1] == "No Pleural Effusion."


def test_chexzero_asks_with_the_label_and_no_before_it() -> None:
    """cxr_pair_template ("{}", "no {}") over the columns of CheXpert's CSV, case kept."""
    columns = (
        "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
        "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion",
        "Pleural Other", "Fracture", "Support Devices",
    )  # fmt: skip
    labels = load_label_set("chexzero").labels
    asked = {label.name: (label.positive, label.negative) for label in labels}
    assert asked == {name: ((name,), (f"no {name}",)) for name in columns}
    assert [label.id for label in labels] == sorted(normal_id(name) for name in columns)


def test_medclip_asks_every_sentence_of_its_parts() -> None:
    """Sizes and ends of the lists that generate_chexpert_class_prompts(n=None) of medclip 0.0.3
    gives; runs of spaces, which its tokenizer does not see, made one."""
    asked = {label.id: label.positive for label in load_label_set("medclip").labels}
    assert {key: len(sentences) for key, sentences in asked.items()} == {
        "atelectasis": 210, "cardiomegaly": 15, "consolidation": 192, "edema": 18,
        "pleural_effusion": 54,
    }  # fmt: skip
    ends = {key: (sentences[0], sentences[-1]) for key, sentences in asked.items()}
    assert ends == {
        "atelectasis": (
            "subsegmental atelectasis at the mid lung zone",
            "minimal residual atelectasis at the right lower lobe",
        ),
        "cardiomegaly": (
            "cardiac silhouette size is upper limits of normal",
            "persistent cardiomegaly with prominent upper lobe vessels",
        ),
        "consolidation": (
            "bilateral consolidation at the lower lung zone",
            "apperance of partial consolidation at the left lung base",
        ),
        "edema": ("pulmonary edema", "decreased pulmonary interstitial edema"),
        "pleural_effusion": (
            "left bilateral pleural effusion",
            "increased tiny bilateral pleural effusion",
        ),
    }
    digest = hashlib.sha256("\n".join(s for row in asked.values() for s in row).encode())
    assert digest.hexdigest() == MEDCLIP_PROMPTS
    assert not any(label.negative for label in load_label_set("medclip").labels)
    assert len(set(asked["pleural_effusion"])) == 36  # one subtype stands twice, and weighs twice


def test_parts_make_every_sentence_once_in_order() -> None:
    row = {"id": "a", "positive_parts": [["", "mild"], ["edema"], ["", "left", "right"]]}
    (label,) = parse_label_set({"set": "s", "label": [row]}, "t").labels
    assert label.positive == (
        "edema", "edema left", "edema right", "mild edema", "mild edema left", "mild edema right",
    )  # fmt: skip


@pytest.mark.parametrize(
    "spelling",
    [
        "Pleural Effusion",
        "pleural-effusion",
        "PLEURAL_EFFUSION",
        "  pleural   effusion\t",
        "pleural -_ effusion",
    ],
)
def test_normal_id_makes_one_of_all_spellings(spelling: str) -> None:
    assert normal_id(spelling) == "pleural_effusion"
    assert normal_id(normal_id(spelling)) == "pleural_effusion"


def test_normal_id_keeps_what_differs() -> None:
    assert normal_id("") == ""
    assert normal_id("Covid 19") != normal_id("Covid19")


def test_a_row_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'set = "lungs"\nnegative = ["Clear."]\n'
        '[[label]]\nid = "Lung Mass"\npositive = ["A mass."]\ncodes = { SNOMED = "309529002" }\n'
        '[[label]]\nid = "b"\nname = "Bee"\npositive = ["B.", "Bb."]\nnegative = ["No b."]\n',
        encoding="utf-8",
    )
    mass, bee = load_label_set(str(path)).labels
    assert (mass.id, mass.name, mass.negative) == ("lung_mass", "Lung mass", ("Clear.",))
    assert mass.codes == {"SNOMED": "309529002"}
    assert (bee.name, bee.positive, bee.negative) == ("Bee", ("B.", "Bb."), ("No b.",))


def test_templates_make_padchest_queries() -> None:
    effusion, copd = set_from_names("padchest", ["Pleural effusion", "COPD signs"]).labels
    assert effusion.id == "pleural_effusion"
    assert effusion.positive == ("Pleural effusion is present.",)
    assert effusion.negative == ("No pleural effusion.",)
    assert copd.positive == ("Copd signs is present.",)
    (mass,) = set_from_names("padchest", ["COPD"]).labels
    assert (mass.positive, mass.negative) == (("COPD is present.",), ("No COPD.",))


def test_prompts_of_the_row_beat_the_template() -> None:
    table = {
        "set": "s",
        "positive_template": "{} is present.",
        "negative_template": "No {}.",
        "label": [{"id": "a", "positive": ["There is an a."]}, {"id": "bee"}],
    }
    first, second = parse_label_set(table, "test").labels
    assert first.positive == ("There is an a.",)
    assert (second.positive, second.negative) == (("Bee is present.",), ("No bee.",))


def test_a_label_without_negatives_is_scored_against_nothing() -> None:
    (label,) = parse_label_set({"set": "s", "label": [{"id": "a", "positive": ["A."]}]}, "t").labels
    assert label.negative == ()


MALFORMED = {
    "empty": "",
    "not toml": "set =",
    "null byte": "\0",
    "nested beyond recursion": "x = " + "[" * 20000,
    "integer of 5000 digits": "x = " + "1" * 5000,
    "no set": ROW,
    "set is a number": f"set = 5\n{ROW}",
    "set in upper case": f'set = "Lungs"\n{ROW}',
    "set is a path": f'set = "../lungs"\n{ROW}',
    "no label": 'set = "s"\n',
    "label is one table": 'set = "s"\n[label]\nid = "a"\npositive = ["A."]\n',
    "labels are words": 'set = "s"\nlabel = ["a", "b"]\n',
    "labels are numbers": 'set = "s"\nlabel = [1, 2]\n',
    "unknown key": f'set = "s"\nnegatives = ["N."]\n{ROW}',
    "unknown key of a label": f'set = "s"\n{ROW}prompts = ["A."]\n',
    "label twice": f'set = "s"\n{ROW}{ROW}',
    "label twice by spelling": f'set = "s"\n{ROW}[[label]]\nid = " A "\npositive = ["A."]\n',
    "no id": 'set = "s"\n[[label]]\npositive = ["A."]\n',
    "id of punctuation": 'set = "s"\n[[label]]\nid = "a:b"\npositive = ["A."]\n',
    "no positive": f'set = "s"\n{BARE}',
    "empty positives": f'set = "s"\n{BARE}positive = []\n',
    "blank positive": f'set = "s"\n{BARE}positive = [" "]\n',
    "positive is a word": f'set = "s"\n{BARE}positive = "A."\n',
    "positive holds a number": f'set = "s"\n{BARE}positive = ["A.", 5]\n',
    "negative is a word": f'set = "s"\nnegative = "N."\n{ROW}',
    "parts beside sentences": f'set = "s"\n{ROW}positive_parts = [["a"]]\n',
    "parts are a word": f'set = "s"\n{BARE}positive_parts = "a"\n',
    "parts are words": f'set = "s"\n{BARE}positive_parts = ["a", "b"]\n',
    "no parts": f'set = "s"\n{BARE}positive_parts = []\n',
    "an empty part": f'set = "s"\n{BARE}positive_parts = [["a"], []]\n',
    "a part of numbers": f'set = "s"\n{BARE}positive_parts = [[1]]\n',
    "parts of nothing": f'set = "s"\n{BARE}positive_parts = [[""], ["", "a"]]\n',
    "parts without end": f'set = "s"\n{BARE}positive_parts = [{HUNDRED}, {HUNDRED}, {HUNDRED}]\n',
    "codes are a word": f'set = "s"\n{ROW}codes = "309529002"\n',
    "codes are a list": f'set = "s"\n{ROW}codes = [309529002]\n',
    "code is a number": f'set = "s"\n{ROW}codes = {{ SNOMED = 309529002 }}\n',
    "name is a list": f'set = "s"\n{ROW}name = ["A"]\n',
    "name is empty": f'set = "s"\n{ROW}name = ""\n',
    "template is a number": f'set = "s"\npositive_template = 5\n{ROW}',
    "template is empty": f'set = "s"\npositive_template = ""\n{BARE}',
    "template without a place": f'set = "s"\npositive_template = "It is present."\n{BARE}',
    "template with two places": f'set = "s"\npositive_template = "{{}} {{}}"\n{BARE}',
    "template with a name": f'set = "s"\npositive_template = "{{name}}"\n{BARE}',
    "template with an open brace": f'set = "s"\npositive_template = "{{"\n{BARE}',
    "template that looks inside": f'set = "s"\npositive_template = "{{0.__class__}}"\n{BARE}',
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_file_is_a_usage_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "set.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_label_set(str(path))
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) > 20


def test_latin_1_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "set.toml"
    path.write_bytes('set = "s"\nnegative = ["Très clair."]\n'.encode("latin-1"))
    with pytest.raises(UsageError, match="not valid TOML"):
        load_label_set(str(path))


@pytest.mark.parametrize("source", ["", "nope", "\0", "../chexpert", "CheXpert", "x" * 5000])
def test_an_unknown_set_names_the_packaged_ones(source: str) -> None:
    with pytest.raises(UsageError, match="chexpert"):
        load_label_set(source)


def test_a_folder_is_no_label_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load_label_set(str(tmp_path))
