"""Files that are damaged, hostile, or no DICOM images at all."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.infer.encodings import codecs
from tests.infer.encodings.base import compressed, dataset, pack
from tests.infer.encodings.refuse_rules import Refusal, film, refuse


def files() -> Iterator[Refusal]:
    yield from _streams()
    yield from _strangers()
    yield from _pictures()


def _streams() -> Iterator[Refusal]:
    p, g = film(), (film() >> 4).astype(np.uint8)
    for name, uid in (
        ("unknown", "1.2.826.0.1.3680043.8.498.99"),
        ("mpeg2", "1.2.840.10008.1.2.4.100"),
        ("mpeg4", "1.2.840.10008.1.2.4.102"),
        ("hevc", "1.2.840.10008.1.2.4.107"),
        ("jpip", "1.2.840.10008.1.2.4.94"),
        ("jpeg_xl", "1.2.840.10008.1.2.4.110"),
        ("not_a_syntax", "1.2.840.10008.1.1"),
    ):
        data = pack(compressed(dataset(p), codecs.J2K_LOSSLESS, codecs.jpeg_2000(p)))
        data = _renamed(data, codecs.J2K_LOSSLESS, uid)
        yield Refusal(f"syntax_{name}", data, "transfer_syntax")
    stream = codecs.jpeg_ls_stream(p)
    other = codecs.jpeg_ls_stream(p[:, :-2])
    for name, syntax, data, depth in (
        ("jpeg_ls_cut", codecs.JPEG_LS, stream[: len(stream) // 2], 12),
        ("jpeg_ls_flipped", codecs.JPEG_LS, _flipped(stream), 12),
        ("jpeg_ls_other_size", codecs.JPEG_LS, other, 12),
        ("jpeg_ls_empty", codecs.JPEG_LS, b"", 12),
        ("j2k_other_size", codecs.J2K_LOSSLESS, codecs.jpeg_2000(p[:-2]), 12),
        ("j2k_deeper", codecs.J2K_LOSSLESS, codecs.jpeg_2000(p), 8),
        ("j2k_zeros", codecs.J2K_LOSSLESS, b"\0" * 4000, 12),
        ("j2k_header_only", codecs.J2K_LOSSLESS, codecs.jpeg_2000(p)[:60], 12),
        ("jpeg_in_j2k", codecs.J2K_LOSSLESS, codecs.jpeg_baseline(g), 8),
        ("j2k_in_jpeg", codecs.JPEG_BASELINE, codecs.jpeg_2000(g), 8),
        ("jpeg_12_bit_header", codecs.JPEG_BASELINE, codecs.jpeg_baseline(g), 12),
        ("jpeg_cut", codecs.JPEG_BASELINE, codecs.jpeg_baseline(g)[:5000], 8),
        ("rle_garbage", codecs.RLELossless, bytes(range(256)) * 40, 12),
        ("rle_cut", codecs.RLELossless, codecs.rle_frame(p)[:9000], 12),
    ):
        ds = dataset(g if depth == 8 else p, depth)
        yield Refusal(name, pack(compressed(ds, syntax, data)), "decode")
    if codecs.imagecodecs is not None:
        signed = codecs.j2k_12_bit(p.astype(np.int16) - 2048)
        ds = compressed(dataset(p), codecs.J2K_LOSSLESS, signed)
        yield Refusal("j2k_other_sign", pack(ds), "decode")
        lossless = codecs.jpeg_lossless(p, 12)
        ds = compressed(dataset(p), codecs.JPEG_LOSSLESS_SV1, lossless[: len(lossless) // 2])
        yield Refusal("jpeg_lossless_cut", pack(ds), "decode")
    yield refuse("lossy_ratio_40", "lossy_ratio", LossyImageCompressionRatio="40")


def _renamed(data: bytes, old: str, new: str) -> bytes:
    """Another TransferSyntaxUID, also one that pydicom would not write."""

    def element(uid: str) -> bytes:
        value = uid.encode() + b"\0" * (len(uid) % 2)
        return struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value

    (length,) = struct.unpack_from("<I", data, 140)  # (0002,0000), the first element
    length += len(element(new)) - len(element(old))
    data = data[:140] + struct.pack("<I", length) + data[144:]
    return data.replace(element(old), element(new), 1)


def _flipped(stream: bytes) -> bytes:
    damaged = bytearray(stream)
    damaged[len(damaged) // 2] ^= 0x55
    return bytes(damaged)


def _strangers() -> Iterator[Refusal]:
    yield Refusal("empty_file", b"", "not_an_image")
    yield Refusal("text_named_dcm", b"This is no DICOM file.\n" * 20, "not_an_image")
    yield Refusal("text", b"This is no DICOM file.\n" * 20, "not_an_image", ".txt")
    yield Refusal("zeros", b"\0" * 5000, "not_an_image")
    yield Refusal("pdf", b"%PDF-1.4\n" + b"0" * 5000, "not_an_image")
    yield Refusal("preamble_only", b"\0" * 128 + b"DICM", "modality")
    whole = pack(dataset(film()))
    yield Refusal("header_cut", whole[:700], "no_pixels")
    yield Refusal("nested_1000_deep", _deep(whole, 1000), "unreadable")
    yield Refusal("nested_20000_deep", _deep(whole, 20_000), "unreadable")
    yield Refusal("deflate_bomb", _bomb(), "too_large")


def _deep(whole: bytes, depth: int) -> bytes:
    """Sequences of undefined length, each opening the next and none ever closed."""
    item = struct.pack("<HH2s2xI", 0x0040, 0x0275, b"SQ", 0xFFFFFFFF)
    item += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    at = whole.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    return whole[:at] + item * depth


def _bomb() -> bytes:
    """600 MiB of zeros in a private element, deflated to 600 KB, in a file of that syntax."""
    ds = dataset(film())
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    whole = pack(ds)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    start = next(at for at in range(200, len(whole)) if _inflates(whole[at:]))
    body = inflater.decompress(whole[start:])
    size = 600 * 2**20
    at = body.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = deflater.compress(body[:at] + struct.pack("<HH2s2xI", 0x7FDF, 0x1010, b"OB", size))
    data += deflater.flush(zlib.Z_FULL_FLUSH)
    block = deflater.compress(b"\0" * 2**20) + deflater.flush(zlib.Z_FULL_FLUSH)
    data += block * (size // 2**20)  # after a full flush a block stands for itself
    return whole[:start] + data + deflater.compress(body[at:]) + deflater.flush()


def _inflates(data: bytes) -> bool:
    try:
        head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, 8)
    except zlib.error:
        return False
    return head.startswith(b"\x08\x00")


def _pictures() -> Iterator[Refusal]:
    grey = (film() >> 4).astype(np.uint8)

    def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    low = saved(Image.fromarray(film()))  # 12 bits in 16: x // 255 would keep 17 levels
    yield Refusal("png_16_bit_low_range", low, "pixel_depth", ".png")
    png = saved(Image.fromarray(grey))
    yield Refusal("png_cut", png[: len(png) // 2], "truncated", ".png")
    jpeg = saved(Image.fromarray(grey), "JPEG")
    yield Refusal("jpeg_file_cut", jpeg[: len(jpeg) // 2], "decode", ".jpg")
    yield Refusal("png_constant", saved(Image.new("L", (80, 80), 9)), "constant_image", ".png")
    rgb = np.repeat(grey[..., None], 3, axis=2)
    rgb[50:90, 50:90] = (200, 30, 30)
    yield Refusal("png_colour", saved(Image.fromarray(rgb)), "colour", ".png")
    yield Refusal("png_alpha", saved(Image.fromarray(grey).convert("LA")), "pixel_format", ".png")
    ours = PngInfo()
    ours.add_text("Software", "tier-infer")  # as overlays say
    own = saved(Image.fromarray(grey), pnginfo=ours)
    yield Refusal("own_picture", own, "own_output", ".png")
    gif = saved(Image.fromarray(grey), "GIF")
    yield Refusal("gif", gif, "not_an_image", ".gif")
    more = [Image.fromarray(grey[::-1].copy())]
    moving = saved(Image.fromarray(grey), save_all=True, append_images=more)
    yield Refusal("png_animated", moving, "multi_frame", ".png")
