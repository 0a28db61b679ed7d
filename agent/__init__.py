"""Penstock's control plane: it decides what is read and where it goes, and never touches a metric itself.

The bytes of metrics move in the compiled :mod:`agent._core`; everything else in this package is Python
that runs once per batch, per reload or per request to the admin interface, never once per metric.
"""

__version__ = "0.1.0"
