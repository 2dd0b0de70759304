"""The picture in other bytes: codecs, transfer syntaxes, headers, other places of the pixels."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from tests.infer.encodings import codecs
from tests.infer.encodings.base import (
    WHITE,
    Case,
    compressed,
    dataset,
    pack,
    picture,
    set_pixels,
)
from tests.infer.encodings.same_windows import lut, rooted


def of(name: str, ds: Dataset, **about: Any) -> Case:
    return Case(name, pack(ds), **({"shown": shown(), "values": values_of()} | about))


def shown() -> NDArray[np.float64]:
    return picture() / WHITE


def values_of() -> NDArray[np.float64]:
    return picture().astype(np.float64)


def eight() -> NDArray[np.uint8]:
    return np.rint(picture() / WHITE * 255).astype(np.uint8)


def file_cases() -> Iterator[Case]:
    yield from codecs_of_the_base()
    if codecs.imagecodecs is not None:
        yield from codecs_of_extras()
    yield from syntaxes()
    yield from headers()
    yield from poses()
    yield from aspects()
    yield from pictures()


def codecs_of_the_base() -> Iterator[Case]:
    p, g = picture(), eight()
    lossy = {"LossyImageCompression": "01"}
    flagged = frozenset({"lossy"})
    yield of("rle", codecs.rle(dataset(p)), listed=True)
    yield of("rle_8_bit", codecs.rle(dataset(g, 8)), values=g.astype(np.float64))
    stream = codecs.jpeg_2000(p)
    yield of("j2k_lossless", compressed(dataset(p), codecs.J2K_LOSSLESS, stream), listed=True)
    boxed = codecs.jpeg_2000(p, box=True)
    yield of("j2k_in_a_jp2_box", compressed(dataset(p), codecs.J2K_LOSSLESS, boxed))
    parts = [stream[i : i + 50_000] for i in range(0, len(stream), 50_000)]
    fragments = compressed(dataset(p), codecs.J2K_LOSSLESS, *parts, table=False)
    yield of("j2k_in_fragments", fragments)
    ds = compressed(dataset(p, **lossy), codecs.J2K, codecs.jpeg_2000(p, 10))
    yield of("j2k_lossy_10", ds, bound=1.0, flags=flagged)
    ds = compressed(dataset(p), codecs.JPEG_LS, codecs.jpeg_ls_stream(p))
    yield of("jpeg_ls", ds, listed=True)
    ds = compressed(dataset(g, 8), codecs.JPEG_LS, codecs.jpeg_ls_stream(g))
    yield of("jpeg_ls_8_bit", ds, values=g.astype(np.float64))
    ds = compressed(dataset(p, **lossy), codecs.JPEG_LS_NEAR, codecs.jpeg_ls_stream(p, 3))
    yield of("jpeg_ls_near_3", ds, bound=0.6, flags=flagged)
    ds = compressed(dataset(g, 8, **lossy), codecs.JPEG_BASELINE, codecs.jpeg_baseline(g))
    yield of(
        "jpeg_baseline", ds, values=g.astype(np.float64), bound=1.2, flags=flagged, listed=True
    )


def codecs_of_extras() -> Iterator[Case]:
    p, g = picture(), eight()
    lossy = {"LossyImageCompression": "01"}
    flagged = frozenset({"lossy"})
    ds = compressed(dataset(p), codecs.JPEG_LOSSLESS_SV1, codecs.jpeg_lossless(p, 12))
    yield of("jpeg_lossless_sv1", ds, listed=True)
    ds = compressed(dataset(p), codecs.JPEG_LOSSLESS, codecs.jpeg_lossless(p, 12, predictor=4))
    yield of("jpeg_lossless_predictor_4", ds)
    ds = compressed(dataset(g, 8), codecs.JPEG_LOSSLESS_SV1, codecs.jpeg_lossless(g, 8))
    yield of("jpeg_lossless_8_bit", ds, values=g.astype(np.float64))
    wide = np.rint(p / WHITE * 65535).astype(np.uint16)
    ds = compressed(dataset(wide, 16), codecs.JPEG_LOSSLESS_SV1, codecs.jpeg_lossless(wide, 16))
    yield of("jpeg_lossless_16_bit", ds, values=wide.astype(np.float64))
    ds = compressed(dataset(p, **lossy), codecs.JPEG_EXTENDED, codecs.jpeg_extended(p))
    yield of("jpeg_extended_12_bit", ds, bound=0.6, flags=flagged, listed=True)
    ds = compressed(dataset(p), codecs.J2K_LOSSLESS, codecs.j2k_12_bit(p))
    yield of("j2k_12_bit_stream", ds)
    signed = (p.astype(np.int16) - 2048).astype(np.int16)
    ds = dataset(signed, RescaleSlope="1", RescaleIntercept="2048", RescaleType="US")
    yield of("j2k_signed", compressed(ds, codecs.J2K_LOSSLESS, codecs.j2k_12_bit(signed)))
    ds = compressed(dataset(p), codecs.HTJ2K_LOSSLESS, codecs.htj2k(p))
    yield of("htj2k_lossless", ds)
    ds = compressed(dataset(p, **lossy), codecs.HTJ2K, codecs.htj2k(p, 1e-4))
    yield of("htj2k_lossy", ds, bound=0.7, flags=flagged)


def syntaxes() -> Iterator[Case]:
    p, g = picture(), eight()
    ds = dataset(p)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    yield of("implicit", ds, listed=True)
    ds = dataset(p)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    yield of("deflated", ds, listed=True)
    ds = set_pixels(dataset(p), p.byteswap().tobytes())
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    yield of("big_endian", ds, listed=True)
    # PS3.5 8.1.1: in big endian, two 8-bit pixels of OW share a word and change places
    swapped = np.frombuffer(g.tobytes(), "<u2").byteswap().tobytes()
    ds = set_pixels(dataset(g, 8), swapped)
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    yield of("big_endian_8_bit_words", ds, values=g.astype(np.float64))
    stored, table = rooted()
    item = lut(table, 0, 16)
    item.LUTData = table.astype(">u2").tobytes()
    ds = set_pixels(dataset(stored), stored.byteswap().tobytes())
    ds.VOILUTSequence = Sequence([item])
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    yield of("big_endian_voi_lut", ds, values=stored.astype(np.float64), window=True)
    for name, syntax in (("no_meta", None), ("no_meta_implicit", ImplicitVRLittleEndian)):
        ds, buffer = dataset(p), io.BytesIO()
        implicit = syntax == ImplicitVRLittleEndian
        del ds.file_meta
        ds.save_as(buffer, implicit_vr=implicit, little_endian=True)
        about = {"flags": frozenset({"no_meta"}), "listed": syntax is None}
        yield Case(name, buffer.getvalue(), shown(), values_of(), **about)


def headers() -> Iterator[Case]:
    p = picture()
    yield of("number_of_frames_1", dataset(p, NumberOfFrames="1"), listed=True)
    yield of("modality_cr", dataset(p, Modality="CR", SOPClassUID="1.2.840.10008.5.1.4.1.1.1"))
    capture = dataset(p, Modality="CR", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    yield of("secondary_capture", capture, flags=frozenset({"secondary_capture"}))
    ds = dataset(p)
    block = ds.private_block(0x0011, "NOBODY 1.0", create=True)
    block.add_new(0x01, "LO", "private")
    block.add_new(0x02, "UN", b"\0\1" * 500)
    nested = Dataset()
    nested.add_new(0x00110010, "LO", "NOBODY 1.0")
    block.add_new(0x03, "SQ", [nested])
    yield of("private_tags", ds)
    ds = dataset(p, PatientName="Müller^Jörg=山田^太郎")
    ds.SpecificCharacterSet = "ISO_IR 192"
    yield of("utf_8_name", ds)
    ds = dataset(p, SpecificCharacterSet=["", "ISO 2022 IR 87"])
    ds.PatientName = "Yamada^Tarou=山田^太郎"
    yield of("japanese_name", ds)
    ds = dataset(p)
    ds.ProcedureCodeSequence = Sequence([code("36554-4", "LN", "XR Chest")])
    ds.AnatomicRegionSequence = Sequence([code("51185008", "SCT", "Chest")])
    for keyword in ("ProcedureCodeSequence", "AnatomicRegionSequence"):
        ds[keyword].is_undefined_length = ds[keyword].value[0].is_undefined_length_sequence_item = (
            True
        )
    yield of("undefined_length_sequences", ds)
    icon = dataset(np.arange(64, dtype=np.uint8).reshape(8, 8), 8)
    ds = dataset(p)
    ds.IconImageSequence = Sequence([icon])
    yield of("icon_image", ds)
    ds = dataset(p)
    ds.add_new(0x60000010, "US", 489)
    ds.add_new(0x60000011, "US", 460)
    ds.add_new(0x60000040, "CS", "G")
    ds.add_new(0x60000050, "SS", [1, 1])
    ds.add_new(0x60000100, "US", 1)
    ds.add_new(0x60000102, "US", 0)
    ds.add_new(0x60003000, "OW", b"\x0f" * (489 * 460 // 8 + 1))
    yield of("overlay_plane", ds)
    padded = dataset(p)
    padded.add_new(0xFFFCFFFC, "OB", b"\0" * 100)
    yield of("trailing_padding", padded)
    polyglot = b"MZ" + struct.pack("<58xI", 0x80) + b"\0" * 64
    data = polyglot + pack(dataset(p))[128:]
    yield Case("executable_preamble", data, shown(), values_of(), flags=frozenset({"preamble"}))
    odd = eight()[:, :-1]  # 489 x 459: an odd number of bytes, one more makes it even
    values = odd.astype(np.float64)
    yield of("odd_columns", dataset(odd, 8), shown=shown()[:, :-1], values=values)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def poses() -> Iterator[Case]:
    """PatientOrientation: where a row runs to, then where a column runs to (C.7.6.1.1.1)."""
    p = picture()
    flags = frozenset({"oriented"})
    for along_row, down_column, stored in (
        ("R", "F", p[:, ::-1]),
        ("R", "H", p[::-1, ::-1]),
        ("L", "H", p[::-1]),
        ("F", "L", p.T),  # a row runs down the patient, a column to the patient's left
        ("H", "L", p.T[:, ::-1]),
        ("F", "R", p.T[::-1]),
        ("H", "R", p.T[::-1, ::-1]),
    ):
        ds = dataset(np.ascontiguousarray(stored), PatientOrientation=[along_row, down_column])
        known = (along_row, down_column) in (("R", "F"), ("R", "H"))
        yield of(f"orientation_{along_row}_{down_column}", ds, flags=flags, listed=known)


def aspects() -> Iterator[Case]:
    """Two columns, or two rows, averaged into one, and declared twice as wide, or high."""
    p = picture().astype(np.float64)
    about: dict[str, Any] = {"resampled": True, "flags": frozenset({"aspect_resampled"})}
    narrow = np.rint((p[:, ::2] + p[:, 1::2]) / 2).astype(np.uint16)
    flat = np.rint((p[:-1:2] + p[1::2]) / 2).astype(np.uint16)
    # both numbers are vertical first (C.7.6.3.1.7, 10.7.1.3)
    for name, stored, keyword, value, known in (
        ("aspect_1_2", narrow, "PixelAspectRatio", ["1", "2"], True),
        ("aspect_2_1", flat, "PixelAspectRatio", ["2", "1"], False),
        ("pixel_spacing_1_2", narrow, "PixelSpacing", ["0.2", "0.4"], False),
        ("imager_spacing_2_1", flat, "ImagerPixelSpacing", ["0.4", "0.2"], False),
    ):
        yield of(name, dataset(stored, **{keyword: value}), listed=known, **about)
    stored = np.ascontiguousarray(narrow.T)  # 230 x 460, a row runs to the feet
    turned = {"PixelAspectRatio": ["2", "1"], "PatientOrientation": ["F", "L"]}
    about["flags"] |= {"oriented"}
    yield of("aspect_and_turned", dataset(stored, **turned), **about)
    spacing = {"PixelSpacing": ["0.143", "0.143"], "ImagerPixelSpacing": ["0.148", "0.148"]}
    yield of("square_spacing", dataset(picture(), **spacing))


def pictures() -> Iterator[Case]:
    """Files without a header, taken as they are by every preset."""
    grey, buffer = eight(), io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    values = grey.astype(np.float64)
    yield Case("png_8_bit", buffer.getvalue(), shown(), values, suffix=".png")
    buffer = io.BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 257).save(buffer, "PNG")
    yield Case("png_16_bit", buffer.getvalue(), shown(), values, suffix=".png")
