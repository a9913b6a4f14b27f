"""kvmpc compares the mechanisms that feed a KVM guest its missing pages.

Source for the words used throughout: ``README.md``, "How it measures".
"""

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("kvmpc")
except PackageNotFoundError:  # a source tree on PYTHONPATH that nobody installed
    __version__ = "0+unknown"
