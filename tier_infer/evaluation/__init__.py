"""Labelled images in, the tables of a paper out. The same for PyTorch and for a bundle.

KIND:ROOT → cohort → scores.csv → units of a protocol → figures → report
"""
