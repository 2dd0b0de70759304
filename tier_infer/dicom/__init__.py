"""One DICOM file in, a picture or a refusal out. Nothing here ever repeats a value of the file."""
