"""Builds the one extension module, ``agent._core``; everything else stands in pyproject.toml.

``PENSTOCK_BUILD=debug`` builds with assertions and without optimisation,
``PENSTOCK_BUILD=asan`` also with the address and undefined-behaviour sanitizers.

What draws the page's plots is put in by packages/build_page.py before a wheel or a source distribution is
made, where npm is to be had; ``PENSTOCK_PAGE=required`` makes it an error if it is not.
"""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

EXT = Path("ext")
FLAVOUR = os.environ.get("PENSTOCK_BUILD", "release")

WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Wno-unused-function",
    "-Wno-missing-field-initializers",
]
COMPILE = {
    # -O3: the reader is 6 % faster than with -O2; no -march, kernels are chosen at run time.
    "release": ["-O3", "-g", "-DNDEBUG"],
    "debug": ["-O0", "-g3", "-UNDEBUG"],
    "asan": ["-O1", "-g3", "-UNDEBUG", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"],
}[FLAVOUR]
LINK = ["-fsanitize=address,undefined"] if FLAVOUR == "asan" else []

core = Extension(
    "agent._core",
    sources=["ext/_core.pyx"],
    include_dirs=["ext"],
    # A nested header or an included .pyx does not trigger a rebuild by itself.
    depends=sorted(str(path) for pattern in ("*.h", "*.pxd", "*.pyx") for path in EXT.glob(pattern)),
    extra_compile_args=["-std=c11", "-D_GNU_SOURCE", "-fvisibility=hidden", "-pthread", *WARNINGS, *COMPILE],
    extra_link_args=["-pthread", *LINK],
)

# A performance hint names a leaf that checks for Python errors, or takes the GIL, by mistake: 35 ns a call.
said = io.StringIO()
try:
    with contextlib.redirect_stderr(said):
        modules = cythonize(
            [core],
            build_dir="build/cython",
            language_level=3,
            include_path=["ext"],
            compiler_directives={
                "boundscheck": False,
                "wraparound": False,
                "initializedcheck": False,
                "cdivision": True,
                "embedsignature": True,
                "freethreading_compatible": False,
            },
        )
finally:
    sys.stderr.write(said.getvalue())
if "performance hint" in said.getvalue():
    sys.exit("setup.py: Cython gives performance hints (above): declare the function noexcept")


def build_page():
    # A source distribution that was made with it has it, and needs neither npm nor network.
    if subprocess.run([sys.executable, "packages/build_page.py"], check=False).returncode:
        sys.exit("setup.py: the page has no plots, and they are required")


class BuildPy(build_py):
    def run(self):
        if not self.editable_mode:
            build_page()
        super().run()


class Sdist(sdist):
    def run(self):
        build_page()
        super().run()


setup(ext_modules=modules, cmdclass={"build_py": BuildPy, "sdist": Sdist})
