"""Flags in plain words, for the report and the terminal. The codes are what programs read."""

from __future__ import annotations

FLAG_WORDS = {
    "aspect_resampled": "The pixels are not square in the file; the picture was made square first.",
    "body_part_unknown": "The file does not say which part of the body it shows.",
    "burned_in_annotation": "The pixels may hold text, even a patient's name.",
    "clipped": "The display window turns most of the picture into pure black or white.",
    "duplicate": "The same image occurs twice in this run; it counts once in the study's score.",
    "enlarged": "The image has fewer pixels than the network looks at: it was enlarged, or framed.",
    "exif_rotated": "The picture was turned upright as its Exif tag says.",
    "grey_from_colour": "The file stores grey as colour; the channels agree and were made one.",
    "high_bits_masked": "Bits above the stored ones hold something else; they were left out.",
    "intensity_linear": "The pixel values are linear to the X-ray intensity, which films are not.",
    "lossy": "The image was compressed with loss at some time.",
    "low_contrast": "Nearly all of the picture lies within a few grey levels.",
    "modality_lut": "The file's own Modality LUT was applied to its pixel values.",
    "modality_missing": "The file does not say which kind of device made it.",
    "no_meta": "The DICOM file has no file meta information; its encoding was found by reading it.",
    "oriented": "The picture was flipped or turned upright as the file's orientation says.",
    "outliers": "A few extreme pixel values squeeze the picture into less than half of the range.",
    "padding_inside": "The value for padding also occurs inside the picture.",
    "patches_untrained": "This network learnt from whole pictures only; its cells are no evidence "
    "of where a finding is.",
    "pediatric": "The patient is a child; most training data are of adults.",
    "pixel_padding": "Padding around the picture was left out of its range and made background.",
    "polarity_suspect": "Black and white look exchanged.",
    "preamble": "The file's preamble is a program of another kind; nothing of it was run.",
    "rotation_suspect": "The picture looks turned by a quarter or a half turn, or mirrored.",
    "secondary_capture": "The image is a secondary capture, not the detector's own file.",
    "several_windows": "The file offers several display windows; the first was used.",
    "unlike_chest": "The picture does not look like a frontal chest radiograph.",
    "view_unknown": "The file does not clearly tell the view; it is taken as frontal.",
    "window_ignored": "The file's display window was not used for the score: the training of this "
    "bundle did not use it either.",
}
# Any of these may make the score of an image meaningless, so it is said before all others.
CAUTION = frozenset(
    {
        "clipped",
        "low_contrast",
        "outliers",
        "polarity_suspect",
        "rotation_suspect",
        "unlike_chest",
        "intensity_linear",
    }
)


def flag_words(flag: str) -> str:
    """A sentence for people; a flag without one stands for itself."""
    return FLAG_WORDS.get(flag, flag.replace("_", " "))


def by_weight(flags: list[str]) -> list[str]:
    """The flags that put the score in doubt first, otherwise in the order given; each once."""
    return sorted(dict.fromkeys(flags), key=lambda flag: flag not in CAUTION)
