"""Pictures a second from 8-megapixel JPEGs and from the cache of them, side by side.

    python benchmarks/loader.py [COUNT]   default: 24 pictures, written to a temporary folder

A tree in MIMIC-CXR-JPG's layout is drawn: 3056 x 2544 pixels and about 1.5 MB a file, as there.
Every picture of the cache is first checked equal to the decoded one. Then both loaders take turns,
in one process, in a new random order each round. Printed: median wall seconds per picture. The
cache is read from the page cache, as in any epoch but the first on a machine with the memory.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.train.mimic_tree import plain, write_tree
from tier_infer.geometry import GEOMETRIES
from tier_infer.intensity import to_8bit
from tier_train.data.cache import cached_pictures
from tier_train.data.cache_writer import write_cache
from tier_train.data.dataset import Pictures
from tier_train.data.datasets import open_dataset
from tier_train.data.pictures import DecodedPictures
from tier_train.phantoms.phantom import draw_phantom
from tier_train.recipe import Recipe

WIDTH, HEIGHT = 2544, 3056
ROUNDS = 5
GEOMETRY = GEOMETRIES["tier-224-imagenet"]


def main(count: int, folder: Path) -> None:
    root = write_tree(folder / "root", plain(count), pictures=False)
    size = draw(root)
    dataset = open_dataset(f"mimic:{root}", Recipe())
    start = time.perf_counter()
    write_cache(
        dataset,
        folder / "cache",
        Recipe(),
        GEOMETRY,
        intensity="mimic-jpg",
        say=lambda _: None,
    )
    spent = time.perf_counter() - start
    cached = open_dataset(f"cache:{folder / 'cache'}", Recipe())
    loaders: dict[str, Pictures] = {
        "JPEG": DecodedPictures(dataset, list(dataset.rows), "mimic-jpg", GEOMETRY),
        "cache": cached_pictures(cached, list(cached.rows), "mimic-jpg", GEOMETRY),
    }
    for i in range(count):
        assert np.array_equal(loaders["JPEG"][i], loaders["cache"][i]), i
    times: dict[str, list[float]] = {name: [] for name in loaders}
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        order = rng.permutation(count).tolist()
        for name, pictures in loaders.items():
            start = time.perf_counter()
            for i in order:
                pictures[i]
            times[name].append((time.perf_counter() - start) / count)
    base = statistics.median(times["JPEG"])
    print(
        f"{count} pictures of {WIDTH} x {HEIGHT}, {size / count / 1e6:.1f} MB each, equal in both"
    )
    for name, values in times.items():
        one = statistics.median(values)
        print(f"  {name:<6} {1000 * one:9.3f} ms   {1 / one:9.0f} a second   {base / one:8.1f} x")
    print(f"  written in {spent:.1f} s by one process, {count / spent:.1f} a second")


def draw(root: Path) -> int:
    """A JPEG for every row, grainy as film is; returns the bytes of all."""
    total = 0
    rng = np.random.default_rng(0)
    for i, row in enumerate(open_dataset(f"mimic:{root}", Recipe()).rows):
        grey = Image.fromarray(to_8bit(draw_phantom(0, i).pixels, "mimic-jpg"))
        film = np.asarray(grey.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
        film += 3 * rng.standard_normal(film.shape, np.float32)
        path = root / row.image_path
        Image.fromarray(film.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        total += path.stat().st_size
    return total


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 24, Path(place))
