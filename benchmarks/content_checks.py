"""How often the pixel checks of `tier_infer.content` are right, and how their template is made.

    python benchmarks/content_checks.py MANIFEST.csv [FOLDER_OF_OTHER_PICTURES ...]
    python benchmarks/content_checks.py --make-template MANIFEST.csv OUT.npz

The manifest has the columns image_path (relative to it), patient_id, source, view and licence. Half
of the patients, by hash, are the tuning half; only their films from `SOURCES`, whose licences allow
it, shape the template and the thresholds. Everything else is measured only. The folders hold DICOM,
PNG or JPEG files of anything but chest radiographs.
"""

from __future__ import annotations

import csv
import hashlib
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from not_chests import KINDS, draw
from numpy.typing import NDArray
from PIL import Image

from tier_infer import content
from tier_infer.errors import FailedImage

SOURCES = ("nih_cxr14", "kermany_paediatric")  # NIH Clinical Center; CC BY 4.0
AXES, HIDDEN, DECAY, EPOCHS = 30, 24, 0.3, 15
JITTERED, CROPS, DRAWN = 4, 3000, 200  # copies of a film; crops of all films; drawings of a kind
TUNING_SEED, TEST_SEED = 1, 2
FOLDS = 4

Grey = NDArray[np.integer]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Film:
    grey: NDArray[np.uint8]
    patient: str
    source: str
    frontal: bool

    @property
    def tunes(self) -> bool:
        return self.source in SOURCES and _hash(self.patient) % 2 == 0 and self.frontal


def _hash(text: str) -> int:
    return hashlib.sha256(text.encode()).digest()[0]


def read_films(manifest: Path) -> list[Film]:
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["image_path"])
    return [
        Film(
            np.asarray(Image.open(manifest.parent / row["image_path"]).convert("L")),
            row["patient_id"],
            row["source"],
            row["view"] != "LATERAL",
        )
        for row in rows
    ]


def read_others(folder: Path) -> Iterator[tuple[str, Grey]]:
    """Pictures of a folder as they are stored; what can't be read or was there before is left out.

    A picture that correlates by 0.99 with an earlier one is that one in another encoding.
    """
    import pydicom

    seen: list[Array] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            with path.open("rb") as file:
                is_dicom = file.read(132)[128:] == b"DICM"
            if is_dicom:
                dataset = pydicom.dcmread(path)
                pixels = dataset.pixel_array
                while pixels.ndim > 2 + (dataset.SamplesPerPixel > 1):
                    pixels = pixels[0]
                if pixels.ndim == 3:
                    pixels = pixels.mean(axis=2).astype(np.uint8)
                if dataset.PhotometricInterpretation == "MONOCHROME1":
                    pixels = pixels.max() - pixels
            else:
                pixels = np.asarray(Image.open(path).convert("L"))
        except Exception:  # whatever a decoder says of a broken file
            continue
        if max(pixels.shape) > 4 * min(pixels.shape) or pixels.min() == pixels.max():
            continue  # refused elsewhere
        cells = content.thumbnail(content.samples(pixels)[0]).ravel()
        if all(np.corrcoef(cells, other)[0, 1] < 0.99 for other in seen):
            seen.append(cells)
            yield path.name, pixels


def cells_of(pictures: Iterable[Grey]) -> Array:
    """→ [n, 256], as they stand."""
    found = [content.thumbnail(content.samples(grey)[0]).ravel() for grey in pictures]
    return np.stack(found)


def crops(films: list[Film], count: int, seed: int) -> Iterator[Grey]:
    """Windows of 15 to 35 % of a film's height and width: too little to be a chest."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        grey = films[int(rng.integers(len(films)))].grey
        height, width = (int(side * rng.uniform(0.15, 0.35)) for side in grey.shape)
        top, left = (
            int(rng.integers(a - b)) for a, b in zip(grey.shape, (height, width), strict=True)
        )
        yield grey[top : top + height, left : left + width]


def jittered(grey: NDArray[np.uint8], rng: np.random.Generator) -> Grey:
    """Cropped by up to 15 % of each side and turned by a few degrees."""
    height, width = grey.shape
    top, bottom, left, right = rng.uniform(0, 0.15, 4)
    part = grey[
        int(height * top) : height - int(height * bottom),
        int(width * left) : width - int(width * right),
    ]
    turned = Image.fromarray(part).rotate(rng.normal(0, 5), Image.Resampling.BILINEAR)
    return np.asarray(turned)


def mirrored(cells: Array) -> Array:
    """[n, 256] → [2 n, 256]"""
    grid = cells.reshape(-1, content.SIDE, content.SIDE)
    return np.concatenate([cells, grid[:, :, ::-1].reshape(cells.shape)])


def gaussians(groups: list[Array]) -> dict[str, Array]:
    """One probabilistic PCA per group of films [n, 256]."""
    table: dict[str, list[Array]] = {"mean": [], "axes": [], "variance": [], "noise": []}
    for cells in groups:
        both = mirrored(cells)
        mean = both.mean(axis=0)
        _, scale, axes = np.linalg.svd(both - mean, full_matrices=False)
        variance = scale**2 / len(both)
        table["mean"].append(mean)
        table["axes"].append(axes[:AXES])
        table["variance"].append(variance[:AXES])
        table["noise"].append(np.asarray(variance[AXES:].sum() / (content.SIDE**2 - AXES)))
    return {name: np.stack(parts) for name, parts in table.items()}


def network(films: Array, others: Array) -> dict[str, Array]:
    """Films against other pictures, both [n, 256] in their best pose."""
    from sklearn.neural_network import MLPClassifier

    pixels = mirrored(np.concatenate([films, others]))
    truth = np.tile(np.repeat([1, 0], [len(films), len(others)]), 2)
    model = MLPClassifier(
        (HIDDEN,), alpha=DECAY, max_iter=EPOCHS, tol=0, n_iter_no_change=EPOCHS + 1,
        batch_size=128, random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it stops before it converges: meant so
        model.fit(pixels, truth)
    (hidden, out), (hidden_bias, out_bias) = model.coefs_, model.intercepts_
    return {
        "hidden": hidden, "hidden_bias": hidden_bias, "out": out[:, 0], "out_bias": out_bias[0],
    }  # fmt: skip


def make_template(manifest: Path, target: Path) -> None:
    """Fits on the tuning half; prints where thresholds lie by cross-validation over patients."""
    films = [film for film in read_films(manifest) if film.tunes]
    rng = np.random.default_rng(TUNING_SEED)
    cells = cells_of(film.grey for film in films)
    copies = cells_of(jittered(film.grey, rng) for _ in range(JITTERED) for film in films)
    others = cells_of(
        [
            *crops(films, CROPS, TUNING_SEED),
            *(draw(kind, TUNING_SEED, i) for kind in KINDS for i in range(DRAWN)),
        ]
    )
    source = np.array([film.source for film in films])
    fold = np.array([_hash("fold " + film.patient) % FOLDS for film in films])
    likeness, resemblance = np.zeros(len(films)), np.zeros(len(films))
    for held in (*range(FOLDS), -1):  # the last round holds nothing out
        kept, part = fold != held, np.arange(len(others)) % FOLDS != held
        known = [kept & (source == name) for name in SOURCES]
        models = gaussians(
            [np.concatenate([cells[m], copies[np.tile(m, JITTERED)]]) for m in known]
        )
        blank = {"hidden": np.zeros((256, 1)), "hidden_bias": np.zeros(1), "out": np.zeros(1)}
        _use({**models, **blank, "out_bias": np.zeros(())}, target)
        upright = np.stack([_best_pose(row) for row in others[part]])
        learnt = np.concatenate([cells[kept], copies[np.tile(kept, JITTERED)]])
        _use({**models, **network(learnt, upright)}, target)
        for place in np.flatnonzero(~kept):
            fit = content.fit_pose(cells[place].reshape(content.SIDE, content.SIDE))
            likeness[place], resemblance[place] = fit.likeness, fit.resemblance
    for name, values, threshold in (
        ("likeness", likeness, content.MIN_LIKENESS),
        ("resemblance", resemblance, content.MIN_RESEMBLANCE),
    ):
        lowest = ", ".join(f"{value:.2f}" for value in np.sort(values)[:6])
        below = int((values < threshold).sum())
        print(f"{name}: {below} of {len(films)} films below {threshold}, the lowest {lowest}")


def _use(template: dict[str, Array], target: Path) -> None:
    """Writes a template and lets `content` read it."""
    np.savez(target, **{name: part.astype(np.float16) for name, part in template.items()})
    content.TEMPLATE = target
    content.load_template.cache_clear()


def _best_pose(cells: Array) -> Array:
    grid = cells.reshape(content.SIDE, content.SIDE)
    fit = content.fit_pose(grid)
    return np.rot90(grid, -fit.turns).ravel() * (-1 if fit.swapped else 1)


def answer(grey: Grey) -> str:
    try:
        return " ".join(content.check_content(grey)) or "nothing"
    except FailedImage as refusal:
        return refusal.reason


def report_films(name: str, films: list[NDArray[np.uint8]]) -> None:
    def share(wanted: str, pictures: Iterable[Grey]) -> str:
        found = [wanted in answer(grey).split() for grey in pictures]
        return f"{np.mean(found):9.1%}"

    plain = Counter(answer(grey) for grey in films)
    wrong = ", ".join(f"{k} {n}" for k, n in sorted(plain.items()) if k != "nothing") or "none"
    figures = [share("polarity_suspect", (255 - grey for grey in films))]
    figures += [share("rotation_suspect", (np.rot90(g, k) for g in films)) for k in (1, 2, 3)]
    print(f"{name:<38}{len(films):>6}{''.join(figures)}   {wrong}")


def report_others(name: str, pictures: Iterable[Grey]) -> None:
    found = Counter(answer(grey) for grey in pictures)
    total = found.total()
    refused = sum(found[reason] for reason in ("blank_image", "scrambled", "constant_image"))
    unlike, none = found["unlike_chest"], found["nothing"]
    pose = total - unlike - none - refused
    row = (unlike / total, refused / total, pose / total, none / total)
    print(f"{name:<38}{total:>6}" + "".join(f"{share:9.1%}" for share in row))


def report(manifest: Path, folders: list[Path]) -> None:
    films = read_films(manifest)
    frontal = [film for film in films if film.frontal]
    print(f"{'chest films':<38}{'n':>6}{'inverted':>9}{'90':>9}{'180':>9}{'270':>9}   false flags")
    for source in SOURCES:
        mine = [film for film in frontal if film.source == source]
        report_films(f"{source}, tuning half", [film.grey for film in mine if film.tunes])
        report_films(f"{source}, held-out half", [film.grey for film in mine if not film.tunes])
    rest = [film.grey for film in frontal if film.source not in SOURCES]
    if rest:
        report_films("other sources, never tuned on", rest)
    from tier_train.phantoms.phantom import draw_phantom

    drawn = [(draw_phantom(0, i).pixels >> 4).astype(np.uint8) for i in range(200)]
    report_films("phantoms of tier-train", drawn)
    print(f"\n{'other pictures':<38}{'n':>6}{'unlike':>9}{'refused':>9}{'pose':>9}{'nothing':>9}")
    lateral = [film.grey for film in films if not film.frontal]
    if lateral:
        report_others("lateral chest films", lateral)
    held = [film for film in frontal if film.source in SOURCES and not film.tunes]
    report_others("crops of held-out films", crops(held, 500, TEST_SEED))
    swapped = [g.grey.ravel().reshape(g.grey.shape[::-1]) for g in frontal if _oblong(g.grey)]
    report_others("rows and columns swapped", swapped)
    for kind in KINDS:
        report_others(f"drawn: {kind}", (draw(kind, TEST_SEED, i) for i in range(100)))
    for folder in folders:
        others = list(read_others(folder))
        report_others(f"files of {folder.name}", (grey for _, grey in others))
        for name, grey in others:
            print(f"    {name:<40} {answer(grey)}")


def _oblong(grey: Grey) -> bool:
    return max(grey.shape) >= 1.05 * min(grey.shape)


if __name__ == "__main__":
    if sys.argv[1] == "--make-template":
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):  # the same bytes when rerun
            make_template(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        report(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
