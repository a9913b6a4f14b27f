"""Trees of files as /proc and /sys have them, below a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["plant"]


def plant(root: Path, files: Mapping[str, str]) -> Path:
    """Write `files` (path below root -> text) and return root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
