"""Files whose pixels can't be known beyond doubt: broken, contradictory, or not pictures at all."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.infer.encodings import codecs
from tests.infer.encodings.base import compressed, dataset, pack, set_pixels
from tests.infer.encodings.refuse_rules import Refusal, film, refuse
from tests.infer.encodings.same_values import lut

NOT_VOI = ("minmax", "mimic-jpg", "chexpert-jpg")


def broken() -> Iterator[Refusal]:
    yield from _pixel_module()
    yield from _pixel_data()
    yield from _grey_values()
    yield from _windows()
    yield from _luts()
    yield from _geometry()
    yield from _streams()
    yield from _contents()
    yield from _strangers()
    yield from _pictures()


def _pixel_module() -> Iterator[Refusal]:
    """PS3.3 C.7.6.3: type 1, no default is guessed."""
    for keyword in (
        "Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel".split()
    ):
        yield refuse(f"no_{keyword}", "pixel_module", **{keyword: None})
    yield refuse("no_PhotometricInterpretation", "photometric", PhotometricInterpretation=None)
    yield refuse("photometric_unknown", "photometric", PhotometricInterpretation="MONOCHROME3")
    yield refuse("rows_0", "pixel_module", Rows=0)
    yield refuse("high_bit_10", "pixel_module", HighBit=10)
    yield refuse("stored_above_allocated", "pixel_module", BitsStored=17, HighBit=16)
    yield refuse("pixel_representation_2", "pixel_module", PixelRepresentation=2)
    yield refuse("two_samples", "pixel_module", SamplesPerPixel=2)
    yield refuse("three_grey_samples", "pixel_module", SamplesPerPixel=3)
    for bits, kind in ((32, "<u4"), (64, "<u8")):
        ds = dataset(film(), BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1)
        set_pixels(ds, film().astype(kind).tobytes())
        yield Refusal(f"allocated_{bits}", pack(ds), "pixel_module")
    ds = dataset(film(), BitsAllocated=1, BitsStored=1, HighBit=0)
    set_pixels(ds, np.packbits(film() > 2000).tobytes())
    yield Refusal("allocated_1", pack(ds), "pixel_module")
    # 12 bits of picture where 8 are declared: masking would wrap the grey values
    yield refuse("bits_stored_lies", "bits_stored", BitsStored=8, HighBit=7)
    yield refuse("bits_stored_lies_by_one", "bits_stored", BitsStored=11, HighBit=10)


def _pixel_data() -> Iterator[Refusal]:
    data = film().tobytes()
    yield refuse("no_pixels", "no_pixels", PixelData=None)
    yield refuse("pixels_empty", "truncated", PixelData=b"")
    yield refuse("pixels_half", "truncated", PixelData=data[: len(data) // 2])
    yield refuse("pixels_one_row_short", "truncated", PixelData=data[:-460])
    yield refuse("pixels_one_row_long", "pixel_length", PixelData=data + data[:460])
    yield refuse("pixels_twice", "pixel_length", PixelData=data * 2)
    whole = pack(dataset(film()))
    yield Refusal("file_cut_in_half", whole[: len(whole) // 2], "truncated")
    yield Refusal("file_cut_at_the_end", whole[:-2], "truncated")
    yield refuse("65535_by_65535", "too_large", Rows=65535, Columns=65535)


def _grey_values() -> Iterator[Refusal]:
    mono1 = {"PhotometricInterpretation": "MONOCHROME1"}
    yield refuse("mono2_inverse", "polarity", PresentationLUTShape="INVERSE")
    yield refuse("mono1_identity", "polarity", PresentationLUTShape="IDENTITY", **mono1)
    yield refuse("presentation_shape", "presentation_lut", PresentationLUTShape="LIN OD")
    table = Sequence([lut(np.arange(4096), 0, 12)])
    yield refuse("presentation_sequence", "presentation_lut", PresentationLUTSequence=table)
    yield refuse("slope_0", "rescale", RescaleSlope="0", RescaleIntercept="0")
    for name, text in (("nan", "NaN"), ("infinite", "1e999"), ("words", "one")):
        data = pack(dataset(film(), RescaleSlope="1.000000", RescaleIntercept="0"))
        data = data.replace(b"1.000000", text.ljust(8).encode())
        yield Refusal(f"slope_{name}", data, "bad_number")
    yield refuse("padding_limit_alone", "pixel_padding", PixelPaddingRangeLimit=0)
    all_padding = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}
    yield refuse("padding_everywhere", "constant_image", **all_padding)


def _windows() -> Iterator[Refusal]:
    """A window that can't be applied matters where windows are."""
    for name, tags in (
        ("width_0", {"WindowCenter": "2048", "WindowWidth": "0"}),
        ("width_half_linear", {"WindowCenter": "2048", "WindowWidth": "0.5"}),
        ("width_negative", {"WindowCenter": "2048", "WindowWidth": "-4096"}),
        ("center_alone", {"WindowCenter": "2048"}),
        ("width_alone", {"WindowWidth": "4096"}),
        ("function", {"WindowCenter": "0", "WindowWidth": "1", "VOILUTFunction": "GAMMA"}),
    ):
        data = pack(dataset(film(), **tags))
        yield Refusal(f"window_{name}", data, "window", presets=("voi",))


def _luts() -> Iterator[Refusal]:
    ramp = np.arange(4096)
    good = lut(ramp, 0, 12)

    def with_(change: str, value: Any) -> Dataset:
        item = lut(ramp, 0, 12)
        if value is None:
            del item[change]
        else:
            setattr(item, change, value)
        return item

    for name, items in (
        ("descriptor_of_two", [with_("LUTDescriptor", [4096, 0])]),
        ("descriptor_32_bits", [with_("LUTDescriptor", [4096, 0, 32])]),
        ("data_too_short", [with_("LUTDescriptor", [4097, 0, 12])]),
        ("data_over_depth", [with_("LUTDescriptor", [4096, 0, 8])]),
        ("no_descriptor", [with_("LUTDescriptor", None)]),
        ("no_data", [with_("LUTData", None)]),
        ("constant", [lut(np.full(4096, 7), 0, 12)]),
    ):
        for where, reason in (("ModalityLUTSequence", "modality_lut"), ("VOILUTSequence", "voi_lut")):
            yield refuse(f"{reason}_{name}", reason, **{where: Sequence(items)})
    yield refuse("modality_lut_twice", "modality_lut", ModalityLUTSequence=Sequence([good, good]))
    data = pack(dataset(film(), VOILUTSequence=Sequence([lut(4095 - ramp, 0, 12)])))
    yield Refusal("voi_lut_inverting", data, "voi_lut", presets=NOT_VOI)


def _geometry() -> Iterator[Refusal]:
    yield refuse("orientation_frontal_A_F", "orientation", PatientOrientation=["A", "F"])
    yield refuse("orientation_along_itself", "orientation", PatientOrientation=["L", "R"])
    yield refuse("orientation_words", "orientation", PatientOrientation=["UP", "DOWN"])
    yield refuse("orientation_one", "orientation", PatientOrientation="L")
    yield refuse("aspect_0", "pixel_aspect", PixelAspectRatio=["0", "1"])
    yield refuse("aspect_1_10", "pixel_aspect", PixelAspectRatio=["1", "10"])
    yield refuse("spacing_1_10", "pixel_aspect", PixelSpacing=["0.1", "1.0"])
    swapped = dataset(film())
    swapped.Rows, swapped.Columns = swapped.Columns, swapped.Rows
    yield Refusal("rows_and_columns_swapped", pack(swapped), "scrambled")
    wrong = dataset(film())
    wrong.Rows, wrong.Columns = 230 * 245 // 322, 322  # 175 x 322, the same number of pixels
    yield Refusal("another_width", pack(wrong), "scrambled")
    rng = np.random.default_rng(5)
    rows = film()[rng.permutation(len(film()))]
    yield Refusal("rows_shuffled", pack(dataset(rows)), "scrambled")


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


def _contents() -> Iterator[Refusal]:
    def grey(name: str, pixels: NDArray[Any], reason: str) -> Refusal:
        return Refusal(name, pack(dataset(pixels.astype(np.uint16))), reason)

    p = film()
    yield grey("constant", np.full_like(p, 1000), "constant_image")
    yield grey("two_near_values", 1000 + (p & 1), "blank_image")
    dots = np.zeros_like(p)
    dots[100:104, 100:104] = 4095
    yield grey("black_with_a_dot", dots, "blank_image")
    black = p.copy()
    black[:-22] = 0
    yield grey("nine_tenths_black", black, "blank_image")
    white = p.copy()
    white[:-22] = 4095
    yield grey("nine_tenths_white", white, "blank_image")
    rng = np.random.default_rng(6)
    yield grey("noise", rng.integers(0, 4096, p.shape), "scrambled")


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
    yield Refusal("png_cut", png[: len(png) // 2], "decode", ".png")
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
