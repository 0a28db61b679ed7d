"""Benchmarks: each figure beside a baseline of the same run, and each run checks its own output first.

``python -m tests.bench`` runs the scenarios on whole processes; the ``test_*.py`` files here are ordinary
tests and run with the others. See README.md for what the figures mean.
"""
