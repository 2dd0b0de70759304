"""A structure-aware mutator over DICOM, PNG, JPEG and zip files; `fuzz_dicom.py` is its command."""
