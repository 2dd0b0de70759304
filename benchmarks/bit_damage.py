"""How much bit damage in a compressed film is noticed, codec by codec.

    python -m benchmarks.bit_damage

60 seeded streams of each codec get 1, 4 or 16 of their bytes changed, anywhere behind the first 64.
`refused`: no picture. `same`: the damage hit nothing that shows. `changed`: another picture was
scored; no decoder can see that the entropy-coded bits still make sense but not the old one. How far
those pictures are off is printed beside it, and how many of them carry a flag of the pixel checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tests.infer.encodings import codecs
from tests.infer.encodings.base import compressed, dataset, pack
from tests.infer.encodings.refuse_rules import film
from tier_infer.errors import RefusedImage
from tier_infer.images import load_bytes

STREAMS, SIZES, SEED, HEAD = 60, (1, 4, 16), 11, 64
SUSPICIOUS = {"unlike_chest", "polarity_suspect", "rotation_suspect", "high_bits_masked"}


@dataclass(frozen=True)
class Outcome:
    codec: str
    changed_bytes: int
    answer: str  # refused, same, changed
    off: float = 0.0  # mean grey levels
    flagged: bool = False


def streams() -> dict[str, tuple[str, bytes, int]]:
    """Codec → transfer syntax, codestream of the film, bits stored."""
    p, g = film(), (film() >> 4).astype(np.uint8)
    found = {
        "RLE": ("1.2.840.10008.1.2.5", codecs.rle_frame(p), 12),
        "JPEG baseline": (codecs.JPEG_BASELINE, codecs.jpeg_baseline(g), 8),
        "JPEG-LS": (codecs.JPEG_LS, codecs.jpeg_ls_stream(p), 12),
        "JPEG-LS near": (codecs.JPEG_LS_NEAR, codecs.jpeg_ls_stream(p, 3), 12),
        "JPEG 2000": (codecs.J2K_LOSSLESS, codecs.jpeg_2000(p), 12),
        "JPEG 2000 lossy": (codecs.J2K, codecs.jpeg_2000(p, 10), 12),
    }
    if codecs.imagecodecs is not None:
        found |= {
            "JPEG extended": (codecs.JPEG_EXTENDED, codecs.jpeg_extended(p), 12),
            "JPEG lossless": (codecs.JPEG_LOSSLESS_SV1, codecs.jpeg_lossless(p, 12), 12),
            "HTJ2K": (codecs.HTJ2K_LOSSLESS, codecs.htj2k(p), 12),
        }
    return found


def outcomes(codec: str, count: int = STREAMS) -> Iterator[Outcome]:
    syntax, stream, bits = streams()[codec]
    pixels = film() if bits == 12 else (film() >> 4).astype(np.uint8)

    def file(data: bytes) -> bytes:
        return pack(compressed(dataset(pixels, bits), syntax, data))

    clean = load_bytes(file(stream), ".dcm", "minmax").grey.astype(np.int16)
    rng = np.random.default_rng([SEED, *codec.encode()])
    for number in range(count):
        size = SIZES[number % len(SIZES)]
        damaged = np.frombuffer(stream, np.uint8).copy()
        where = rng.choice(np.arange(HEAD, len(stream)), size, replace=False)
        damaged[where] ^= rng.integers(1, 256, size, dtype=np.uint8)
        try:
            image = load_bytes(file(damaged.tobytes()), ".dcm", "minmax")
        except RefusedImage:
            yield Outcome(codec, size, "refused")
            continue
        off = float(np.abs(image.grey - clean).mean())
        flagged = bool(SUSPICIOUS & set(image.flags))
        yield Outcome(codec, size, "changed" if off else "same", off, flagged)


def main() -> None:
    print(f"{STREAMS} streams a codec, {'/'.join(map(str, SIZES))} bytes changed; levels of 255")
    print(f"{'codec':<16} refused  same  changed (flagged)  median off  most off")
    for codec in streams():
        found = list(outcomes(codec))
        off = [o.off for o in found if o.answer == "changed"]
        refused, same = (sum(o.answer == what for o in found) for what in ("refused", "same"))
        flagged = sum(o.flagged for o in found if o.answer == "changed")
        most, median = (max(off), float(np.median(off))) if off else (0.0, 0.0)
        print(
            f"{codec:<16} {refused:>7} {same:>5} {len(off):>8} {f'({flagged})':>9} "
            f"{median:>11.3f} {most:>9.3f}"
        )


if __name__ == "__main__":
    main()
