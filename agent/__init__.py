"""Penstock's control plane: decides, and never touches a metric."""

__version__ = "0.1.0"
