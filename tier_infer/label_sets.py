"""Label sets: which findings, and the sentences that ask for them. A small TOML file each.

    set = "lungs"
    negative = ["The lungs are clear."]          # for every label that has none of its own
    [[label]]
    id = "pneumonia"                             # what --labels takes
    name = "Pneumonia"                           # what people read; default: from the id
    names = { de = "Pneumonie", pt-BR = "Pneumonia" }  # optional, by language (BCP 47)
    positive = ["Pneumonia is present."]
    codes = { SNOMED = "233604007" }             # optional

Instead of prompts a set may give templates, `positive_template = "{} is present."`, and a label
`positive_parts = [["", "mild"], ["edema"], ["left", "right"]]` for every sentence of one part each.
`pool = { kind = "log_sum_exp", temperature = 0.1 }` or `{ kind = "top_k", k = 5 }` at the top makes
it a set of patch scores (see `pooling`); without, the image's own embedding is scored.
A label without any negative sentence is scored against nothing (q⁻ = 0). A sentence that stands
twice weighs twice in the mean; only a set that repeats somebody's protocol has a use for that.
`name` is English unless the set says `language = "de"`; sentences are always in the language of the
training text.
"""

from __future__ import annotations

import itertools
import math
import re
import tomllib
import unicodedata
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tier_infer.errors import UsageError
from tier_infer.pooling import Pool, kind_of, pool_from, pool_of

FOLDER = Path(__file__).with_name("label_sets")
MAX_SENTENCES = 1000  # per label, of parts
JOINERS = "\u200c\u200d"  # unseen, but Persian and Hindi are not written without them
ID = re.compile(r"[a-z0-9][a-z0-9_]*")
# BCP 47: language, script, region, variants; extensions say nothing about a name
_LANGUAGE = re.compile(
    r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|[0-9]{3}))?(-([a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*"
)


@dataclass(frozen=True)
class Label:
    id: str
    name: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    codes: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # language → name, that of `name` included


@dataclass(frozen=True)
class LabelSet:
    id: str
    labels: tuple[Label, ...]
    pool: Pool | None = None  # None: the image's embedding is scored, not its patches


def normal_id(text: str) -> str:
    """'Pleural Effusion', 'pleural-effusion' and 'PLEURAL_EFFUSION' are one label, and so are
    'Herzvergrößerung' and 'HERZVERGRÖSSERUNG', whether ö is one code point or two."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return re.sub(r"[\s_\-]+", "_", folded.strip())


def language_code(text: str) -> str:
    """The code as BCP 47 writes it, 'PT_br' as pt-BR; UsageError for what is none."""
    first, *rest = text.strip().replace("_", "-").lower().split("-")
    styled = [p.upper() if len(p) == 2 else p.title() if re.fullmatch("[a-z]{4}", p) else p
              for p in rest]  # fmt: skip
    code = "-".join((first, *styled))
    if not _LANGUAGE.fullmatch(code):
        raise UsageError(f"{text!r} is no language code (BCP 47) such as de, pt-BR or zh-Hant")
    return code


def column_id(text: str) -> str:
    """The label id of a CSV column, whatever its spelling: 'Edema (mild)' is edema_mild."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def load_label_set(source: str, pooled: bool = False) -> LabelSet:
    """A packaged set by name (`chexpert`) or any TOML file by path; `chexpert@top_k=5` is the same
    set of patch scores, called chexpert_top_k.

    UsageError for a set of patch scores unless `pooled`: most commands score the image's embedding.
    """
    found = _load(source)
    if found.pool and not pooled:
        raise UsageError(
            f"label set {source} pools scores of patches, which this command does not; "
            "`tier-train evaluate` does with --scoring margin, and so does a bundle that was "
            "exported with `tier-export --queries`"
        )
    return found


def _load(source: str) -> LabelSet:
    packaged = {p.stem: p for p in FOLDER.glob("*.toml")}
    path = packaged.get(source, Path(source))
    try:
        exists = path.is_file()
    except (OSError, ValueError):  # a name the file system can't even ask for
        exists = False
    if not exists:
        before, mark, pool = source.rpartition("@")
        if mark:
            return _pooled(_load(before), pool, source)
        names = ", ".join(sorted(packaged))
        raise UsageError(f"label set {source!r} is neither packaged ({names}) nor a TOML file")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise UsageError(f"label set file {source} is not valid TOML: {error}") from None
    return parse_label_set(table, source)


def _pooled(labels: LabelSet, text: str, source: str) -> LabelSet:
    if labels.pool:
        raise UsageError(f"label set {source}: {labels.id} pools patch scores already; name it so")
    pool = pool_from(text, f"label set {source}")
    return replace(labels, id=f"{labels.id}_{kind_of(pool)}", pool=pool)


def set_from_names(set_id: str, names: list[str]) -> LabelSet:
    """PadChest-style queries for bare names: 'X is present.' against 'No X.' (TIER, 2.4)."""
    labels = [{"id": column_id(name), "name": name} for name in names]
    templates = {"positive_template": "{} is present.", "negative_template": "No {}."}
    return parse_label_set({"set": set_id, "label": labels, **templates}, set_id)


def parse_label_set(table: dict[str, Any], source: str) -> LabelSet:
    known = {"set", "language", "negative", "positive_template", "negative_template", "label"}
    _refuse_unknown(table, known | {"pool"}, source)
    pool = pool_of(table["pool"], f"label set {source}") if "pool" in table else None
    for key in ("positive_template", "negative_template"):
        template = table.get(key, "{}")
        if not isinstance(template, str) or template.count("{}") != 1 or template.count("{") != 1:
            raise UsageError(f"label set {source}: {key} must be a sentence with one {{}}")
    rows = table.get("label")
    set_id = table.get("set")
    if not isinstance(set_id, str) or not ID.fullmatch(set_id):
        raise UsageError(f"label set {source}: `set` must be a lower-case word, got {set_id!r}")
    if not isinstance(rows, list) or not rows:
        raise UsageError(f"label set {source} has no [[label]] entry")
    labels = tuple(_parse_label(row, table, source) for row in rows)
    ids = [label.id for label in labels]
    twice = sorted(i for i, count in Counter(ids).items() if count > 1)
    if twice:
        raise UsageError(f"label set {source} names a label twice: {', '.join(twice)}")
    _check_names(labels, source)
    return LabelSet(set_id, labels, pool)


def _check_names(labels: tuple[Label, ...], source: str) -> None:
    ids = {label.id for label in labels}
    for label in labels:
        others = {normal_id(name) for name in label.names.values()} & ids - {label.id}
        if others:
            raise UsageError(
                f"label set {source}: a name of {label.id} is the id of another label, "
                f"{min(others)}; nobody could tell which one is meant"
            )


def _parse_label(row: object, table: dict[str, Any], source: str) -> Label:
    if not isinstance(row, dict):
        raise UsageError(f"label set {source}: every label is a [[label]] table")
    known = {"id", "name", "names", "positive", "positive_parts", "negative", "codes"}
    _refuse_unknown(row, known, source)
    label_id = normal_id(str(row.get("id", "")))
    if not ID.fullmatch(label_id):
        raise UsageError(f"label set {source}: {row.get('id')!r} is no label id")
    name = row.get("name", label_id.replace("_", " ").capitalize())
    codes = row.get("codes", {})
    if not _is_name(name):
        raise UsageError(
            f"label set {source}: the name of {label_id} must be one line of text without a comma"
        )
    names = _names(row.get("names", {}), f"label set {source}: the names of {label_id}")
    if not isinstance(codes, dict) or not all(isinstance(c, str) and c for c in codes.values()):
        raise UsageError(f"label set {source}: the codes of {label_id} must be a table of text")
    if "positive" in row and "positive_parts" in row:
        raise UsageError(f"label set {source}: {label_id} has both positive and positive_parts")
    parts = row.get("positive_parts")
    given = row.get("positive") if parts is None else _sentences_of(parts, name)
    positive = _prompts(given, table.get("positive_template"), name)
    negative = _prompts(
        row.get("negative", table.get("negative")), table.get("negative_template"), name
    )
    if not positive:
        raise UsageError(f"label set {source}: label {label_id} has no positive sentence")
    language = language_code(str(table.get("language", "en")))
    if names.get(language, name) != name:
        raise UsageError(
            f"label set {source}: {label_id} has two names in {language}, {name!r} and "
            f"{names[language]!r}"
        )
    return Label(label_id, name, positive, negative, codes, {language: name} | names)


def _is_name(name: object) -> bool:
    """Some text, and no character that starts another line, steers a terminal, turns the direction
    of what follows or is not seen. A comma stands between the names of --labels."""
    if not isinstance(name, str) or not name.strip() or "," in name:
        return False
    categories = {unicodedata.category(c) for c in name if c not in JOINERS}
    return not categories & {"Cc", "Cf", "Zl", "Zp"}


def _names(given: object, what: str) -> dict[str, str]:
    """Language code as BCP 47 writes it → name."""
    if not isinstance(given, dict) or not all(_is_name(name) for name in given.values()):
        raise UsageError(
            f'{what} must be a table of text without a comma, like {{ de = "Pneumonie" }}'
        )
    names = {language_code(code): name for code, name in given.items()}
    if len(names) != len(given):
        raise UsageError(f"{what} give one language twice")
    return names


def _prompts(given: object, template: object, name: str) -> tuple[str, ...]:
    """Sentences as written, else the template with the name; a sentence starts in upper case."""
    if given is not None:
        if not isinstance(given, list) or not all(isinstance(p, str) and p.strip() for p in given):
            raise UsageError(f"the prompts of {name} must be a list of sentences")
        return tuple(given)
    if template is None:
        return ()
    sentence = str(template).replace("{}", name if name.isupper() else name.lower())
    return (sentence[:1].upper() + sentence[1:],)


def _sentences_of(parts: object, name: str) -> list[str]:
    """The cartesian product of lists of words, first part slowest; empty words are left out."""
    groups = parts if isinstance(parts, list) else []
    if not groups or not all(
        isinstance(group, list) and group and all(isinstance(word, str) for word in group)
        for group in groups
    ):
        raise UsageError(f"the positive_parts of {name} must be lists of words in a list")
    if math.prod(len(group) for group in groups) > MAX_SENTENCES:
        raise UsageError(f"the positive_parts of {name} make over {MAX_SENTENCES} sentences")
    return [" ".join(word for word in words if word) for words in itertools.product(*groups)]


def _refuse_unknown(table: dict[str, Any], known: set[str], source: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        allowed = ", ".join(sorted(known))
        raise UsageError(
            f"label set {source} has unknown keys {', '.join(unknown)}; allowed: {allowed}"
        )
