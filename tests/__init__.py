"""Penstock's tests; a package so that they can share what stands in conftest.py and reference/."""
