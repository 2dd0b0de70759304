"""Datasets: every source read into rows and pictures."""
