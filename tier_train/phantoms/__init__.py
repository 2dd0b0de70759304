"""Drawn radiographs with known findings and reports."""
