"""Figures 5 and 6: how an image's patches answer its own report, ranked.

Of every pair, the cosines of the report's [CLS] token to the P patches, sorted from high to low;
mean and standard deviation over the pairs for each rank. Figure 6 divides each image's cosines by
their sum first: shares. A sum of 0 or less makes no shares, so such images are counted and left
out. The standard deviation divides by n, as in the released code.

    similarity.csv    model, line of the table, P cosines in the order of the patches, row by row
    similarity.json   whose they are, and what the figures show, recomputed from the CSV alone
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tier_infer.errors import UsageError
from tier_infer.files import write_atomic
from tier_infer.geometry import center_crop
from tier_infer.tables import csv_text
from tier_train.checkpoint import Checkpoint
from tier_train.data.dataset import Dataset, Row
from tier_train.data.pictures import load_pictures
from tier_train.figures.drawing import COLOURS, MARKERS, new_figure, save_figure, save_json
from tier_train.figures.pair import NAMES, Pair, head_of, models_in_words
from tier_train.towers.text_encoder import embed_prompts
from tier_train.zero_shot import encode_images

PAIRS = 160  # of the paper
BLOCK = 32  # images in memory at once
TABLE, FACTS = "similarity.csv", "similarity.json"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    lines: tuple[int, ...]  # N, of the table
    cosines: dict[str, Floats]  # model → [N, P], patches row by row


def rows_with_text(dataset: Dataset, split: str | None, count: int) -> tuple[str, list[Row]]:
    """The split, and its first `count` images with a report that are not lateral, in the order of
    the table; fewer where there are no more. Default: test, or val where nothing is held out."""
    held = {row.split for row in dataset.rows}
    if split is not None and split not in held:
        raise UsageError(f"{dataset.name} has no split {split!r}; it has {', '.join(sorted(held))}")
    chosen = split or next((name for name in ("test", "val") if name in held), "train")
    rows = [row for row in dataset.split(chosen) if row.text and row.view != "lateral"]
    if not rows:
        raise UsageError(
            f"split {chosen} of {dataset.name} has no frontal image with a report; figures 5 and 6 "
            "need a manifest with a column `text`, or mimic:ROOT"
        )
    return chosen, rows[:count]


def measure(
    pair: Pair, dataset: Dataset, rows: list[Row], skip_bad: bool = False
) -> tuple[Similarity, int]:
    """What both models say of these rows, and how many rows bad images left out."""
    geometry = pair.presets.geometry
    kept, pictures = load_pictures(dataset, rows, pair.presets.intensity, geometry, skip_bad)
    if not kept:
        raise UsageError(f"every image of {len(rows)} rows of {dataset.name} is refused")
    parts: dict[str, list[Floats]] = {name: [] for name in NAMES}
    for start in range(0, len(kept), BLOCK):
        block = range(start, min(start + BLOCK, len(kept)))
        crops = np.stack([center_crop(pictures[i], geometry.crop) for i in block])
        texts = [kept[i].text for i in block]
        for name, checkpoint in zip(NAMES, pair, strict=True):
            parts[name].append(own_cosines(checkpoint, texts, crops))
    cosines = {name: np.concatenate(found) for name, found in parts.items()}
    if not all(np.isfinite(values).all() for values in cosines.values()):
        raise UsageError("a checkpoint's output is not finite; train it again")
    return Similarity(tuple(row.number for row in kept), cosines), len(rows) - len(kept)


def own_cosines(checkpoint: Checkpoint, texts: list[str], crops: NDArray[np.uint8]) -> Floats:
    """N texts, uint8 [N, S, S] → float64 [N, P]. Texts one by one: no padding."""
    words, tokenizer = checkpoint.model.words, checkpoint.tokenizer
    _, patch_e = encode_images(checkpoint.model, crops)
    found = np.empty((len(texts), patch_e.shape[1] * patch_e.shape[2]))
    for i, text in enumerate(texts):
        text_e = embed_prompts(words, tokenizer, [text])[0].cpu()
        found[i] = (patch_e[i].flatten(0, 1) @ text_e).numpy()  # [P]
    return found


def ranked(values: Floats) -> Floats:
    """[N, P], each row from high to low."""
    return -np.sort(-values, axis=1)


def shares(cosines: Floats) -> Floats:
    """[N, P] → [n, P] of rows that sum to 1; those whose cosines sum to 0 or less are left out."""
    total = cosines.sum(axis=1, keepdims=True)
    kept = total[:, 0] > 0
    return np.asarray(cosines[kept] / total[kept])


def curve(values: Floats) -> dict[str, Any]:
    """Of [n, P]: per rank the mean and the standard deviation over n; None for no row."""
    if not len(values):
        return {"n": 0, "mean": None, "sd": None}
    table = ranked(values)
    return {
        "n": len(table),
        "mean": table.mean(axis=0).tolist(),
        "sd": table.std(axis=0).tolist(),
    }


def curves(similarity: Similarity) -> dict[str, Any]:
    """figure5 and figure6 → model → curve; figure 6 with what it leaves out."""
    five = {name: curve(values) for name, values in similarity.cosines.items()}
    six = {name: curve(shares(values)) for name, values in similarity.cosines.items()}
    for found in six.values():
        found["left_out_sum_not_positive"] = len(similarity.lines) - found["n"]
    return {"figure5": five, "figure6": six}


def facts_of(
    pair: Pair,
    dataset: Dataset,
    split: str,
    similarity: Similarity,
    asked: int,
    refused: int,
) -> dict[str, Any]:
    described = {
        "kind": dataset.kind,
        "name": dataset.name,
        "split": split,
        "sha256": dataset.sha256,
    }
    return head_of("similarity", pair, described) | {
        "pairs": {"asked": asked, "found": len(similarity.lines), "refused_images": refused},
        "chosen": "the first frontal images with a report, in the order of the table",
        "sd_divides_by": "n",
    }


def write(folder: Path, facts: dict[str, Any], similarity: Similarity) -> dict[str, Any]:
    """CSV, JSON and both figures; what the JSON holds."""
    patches = len(next(iter(similarity.cosines.values()))[0])
    head = ["model", "line", *(f"patch_{i}" for i in range(patches))]
    body = [
        (name, line, *(f"{value:.9g}" for value in row))  # as many digits as float32 has
        for name, values in similarity.cosines.items()
        for line, row in zip(similarity.lines, values, strict=True)
    ]
    write_atomic(folder / TABLE, csv_text([head, *body]).encode())
    return draw(folder, facts, read(folder / TABLE))


def read(path: Path) -> Similarity:
    """UsageError for a file that is none of ours."""
    try:
        rows = list(csv.reader(io.StringIO(path.read_text("utf-8"), newline=""), strict=True))
        head, body = rows[0], rows[1:]
        values = np.array([[float(cell) for cell in row[2:]] for row in body])
        lines = {name: tuple(int(row[1]) for row in body if row[0] == name) for name in NAMES}
        cosines = {
            name: values[[row[0] == name for row in body]].reshape(len(lines[name]), -1)
            for name in NAMES
        }
    except OSError as error:
        raise UsageError(f"{path} can't be opened: {error.strerror}") from None
    except (ValueError, IndexError, csv.Error):
        raise _not_ours(path) from None
    sound = head[:2] == ["model", "line"] and len(body) == 2 * len(lines[NAMES[0]]) > 0
    if not sound or lines[NAMES[0]] != lines[NAMES[1]] or not np.isfinite(values).all():
        raise _not_ours(path)
    return Similarity(lines[NAMES[0]], cosines)


def read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} can't be opened: {error.strerror}") from None
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or facts.get("figure") != "similarity":
        raise _not_ours(path)
    try:
        _caption("figure5", facts)
    except (KeyError, TypeError):
        raise _not_ours(path) from None
    return facts


def _not_ours(path: Path) -> UsageError:
    return UsageError(f"{path} is not what `tier-train figures similarity -o DIR` writes")


def summary(facts: dict[str, Any]) -> list[str]:
    """What is worth a line: how much of an answer the best patches hold."""
    lines = ["model,figure,n,left_out,highest,lowest,spread"]
    for key in ("figure5", "figure6"):
        for name, found in facts[key].items():
            left = found.get("left_out_sum_not_positive", 0)
            mean = found["mean"]
            ends = [mean[0], mean[-1], mean[0] - mean[-1]] if mean else []
            cells = [f"{value:.4f}" for value in ends] or ["", "", ""]
            lines.append(",".join([name, key, str(found["n"]), str(left), *cells]))
    return lines


def draw(folder: Path, facts: dict[str, Any], similarity: Similarity) -> dict[str, Any]:
    """figure5.png, figure6.png and similarity.json in `folder`."""
    facts = facts | curves(similarity)
    save_json(folder / FACTS, facts)
    for key in ("figure5", "figure6"):
        save_figure(_plot(key, facts), folder / f"{key}.png")
    return facts


def _plot(key: str, facts: dict[str, Any]) -> Any:
    found = facts[key]
    figure = new_figure(6.4, 4.4, _caption(key, facts))
    axes = figure.add_subplot()
    for shift, (name, values) in zip((-0.12, 0.12), found.items(), strict=True):
        if values["mean"] is None:
            continue
        ranks = np.arange(1, len(values["mean"]) + 1)
        axes.errorbar(
            ranks + shift, values["mean"], yerr=values["sd"], fmt=MARKERS[name], ms=3.5,
            color=COLOURS[name], ecolor=COLOURS[name], elinewidth=0.8, capsize=1.5,
            label=f"{name} (n = {values['n']})",
        )  # fmt: skip
    axes.axhline(0, color="#808080", lw=0.8)
    top = max(len(values["mean"] or ()) for values in found.values())
    if key == "figure6" and top:
        axes.axhline(1 / top, color="#808080", lw=0.8, ls=":", label=f"equal shares, 1/{top}")
    axes.set_xlabel("rank of the patch", fontsize=11)
    axes.set_ylabel(
        "cosine of [CLS] and patch" if key == "figure5" else "cosine / sum of the image's cosines",
        fontsize=11,
    )
    axes.tick_params(labelsize=10)
    axes.legend(fontsize=10, frameon=False)
    return figure


def _caption(key: str, facts: dict[str, Any]) -> str:
    pairs, data = facts["pairs"], facts["dataset"]
    words = (
        f"{key.replace('figure', 'Figure ')}: cosines of the [CLS] token of an image's own report "
        "to its patches, sorted from high to low"
    )
    if key == "figure6":
        words += ", each image's divided by their sum"
    words += (
        f"; mean and standard deviation over {pairs['found']} pairs, the first frontal images with "
        f"a report of {data['name']}, split {data['split']}"
    )
    if pairs["found"] < pairs["asked"]:
        words += f" (fewer than the {pairs['asked']} asked for)"
    if pairs["refused_images"]:
        words += f"; {pairs['refused_images']} unreadable images left out"
    if key == "figure6":
        left = [
            f"{name} {found['left_out_sum_not_positive']}" for name, found in facts[key].items()
        ]
        words += f". Images whose cosines sum to 0 or less are left out: {', '.join(left)}"
    return f"{words}. {models_in_words(facts)}"
