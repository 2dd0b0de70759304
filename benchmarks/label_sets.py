"""What 10, 100, 1,000 and 10,000 labels cost: to add, to load, and per image to score.

    python benchmarks/label_sets.py BUNDLE   exported with `tier-export --text`; it is copied

Scores alone, no heatmaps. Embeddings are random unit vectors, so the encoder's time is not in it.
All is CPU time on one core. Of adding a set: to parse its file, to embed and lint its sentences
(`of it` linting their directions), to prove and write. The sets then take turns in one process;
printed are medians and what 10,000 labels add to 10. `product` is the query graph on its own,
`image` what `score_images` does behind the encoder, results included, at batch 16 as in a folder
and at batch 1, `study` the study's score of one image on top of it.
"""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
if hasattr(os, "sched_setaffinity"):  # before onnxruntime counts the cores
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import numpy as np

from tier_export.labels import make, open_bundle, prepare, tower_source, write
from tier_export.lint import check_set
from tier_infer.bundle import load_bundle
from tier_infer.embeddings import BATCH, Embeddings
from tier_infer.label_sets import load_label_set
from tier_infer.query_table import QueryTable
from tier_infer.scoring import ImageResult, Selection, _run, select_labels
from tier_infer.studies import study_scores

COUNTS = (10, 100, 1000, 10_000)
ROUNDS, WARM_UP = 40, 5
FINDINGS = "edema effusion consolidation atelectasis cardiomegaly pneumonia nodule mass scar fluid"
PLACES = "left right upper lower middle basal apical hilar central lateral"
MORE = "mild small new old large dense faint focal diffuse patchy"
NEGATIVE = ["The lungs are clear.", "No abnormalities are present.", "The chest is normal."]


class Ready:
    """An encoder that has finished."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    def encode(self, pixels: np.ndarray) -> Embeddings:
        return Embeddings(self.image[: len(pixels)], np.empty((len(pixels), 0, 0, 0), np.float32))


def main(source: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(source, Path(temporary) / "bundle"))
        print(f"{'labels':>7} {'parse s':>9} {'embed s':>10} {'of it s':>9} {'write s':>9} "
              f"{'load ms':>10} {'select ms':>10} {'file MB':>9}")  # fmt: skip
        for count in COUNTS:
            add(folder, Path(temporary), count)
        bundle = load_bundle(folder)
        selections = {n: select_labels(bundle, wanted(n)) for n in COUNTS}
        tables = {n: QueryTable(bundle, f"n{n}") for n in COUNTS}
        score(selections, tables, bundle.manifest.embed_dim)


def wanted(count: int) -> list[str]:
    return [f"n{count}:label_{i}" for i in range(count)]


def add(folder: Path, scratch: Path, count: int) -> None:
    path = scratch / f"n{count}.toml"
    path.write_text(toml(count))
    clock = [time.process_time()]

    def lap() -> float:
        clock.append(time.process_time())
        return clock[-1] - clock[-2]

    labels = load_label_set(str(path))
    parsed = lap()
    bundle = open_bundle(folder)
    made = make(labels, tower_source(bundle))
    embedded = lap()
    write(bundle, prepare(bundle, [made]))
    written = lap()
    fresh = load_bundle(folder)
    loaded = lap()
    select_labels(fresh, wanted(count))
    selected = lap()
    check_set(labels, made.table, ())
    linted = lap()
    size = (folder / f"queries/n{count}.onnx").stat().st_size
    print(f"{count:>7,} {parsed:9.2f} {embedded:10.2f} {linted:9.2f} {written:9.2f} "
          f"{1000 * loaded:10.0f} {1000 * selected:10.0f} {size / 1e6:9.2f}")  # fmt: skip


def score(selections: dict[int, Selection], tables: dict[int, QueryTable], dim: int) -> None:
    e = np.random.default_rng(0).standard_normal((BATCH, dim)).astype(np.float32)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    crop = np.zeros((1, 1), np.uint8)

    def images(n: int, batch: int) -> list[ImageResult]:
        waiting = [(ImageResult("a"), crop) for _ in range(batch)]
        return list(_run(waiting, Ready(e), selections[n], False))  # type: ignore[arg-type]

    for n in COUNTS:  # the same numbers either way
        found = np.array([list(result.scores.values()) for result in images(n, BATCH)])
        assert np.array_equal(found, tables[n].cell_scores(e))
    rows: dict[str, Callable[[int], object]] = {
        "product, batch 16": lambda n: tables[n].cell_scores(e),
        "product, batch 1": lambda n: tables[n].cell_scores(e[:1]),
        "image, batch 16": lambda n: images(n, BATCH),
        "image, batch 1": lambda n: images(n, 1),
    }
    one = {n: images(n, 1) for n in COUNTS}
    rows["study, one image"] = lambda n: study_scores(one[n])
    spent: dict[tuple[str, int], list[float]] = {key: [] for key in itertools.product(rows, COUNTS)}
    for turn in range(ROUNDS + WARM_UP):
        for name, n in spent:
            start = time.process_time()
            rows[name](n)
            if turn >= WARM_UP:
                share = BATCH if name.endswith("16") else 1
                spent[name, n].append(1000 * (time.process_time() - start) / share)
    print(f"\n{'CPU ms per image':<20}" + "".join(f"{n:>10,}" for n in COUNTS) + "     added")
    for name in rows:
        medians = [statistics.median(spent[name, n]) for n in COUNTS]
        shown = "".join(f"{m:>10.4f}" for m in medians)
        print(f"{name:<20}{shown}{medians[-1] - medians[0]:>10.4f}")


def toml(count: int) -> str:
    words = itertools.product(MORE.split(), PLACES.split(), FINDINGS.split(), MORE.split())
    lines = [f'set = "n{count}"', f"negative = {NEGATIVE}"]
    for n, (a, b, c, d) in enumerate(itertools.islice(words, count)):
        lines += ["[[label]]", f'id = "label_{n}"', f'name = "{a} {b} {c} {d}"']
        lines += [f'names = {{ de = "Befund {n}" }}', f'positive = ["{a} {b} {c} is {d}."]']
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
