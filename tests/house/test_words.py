"""Our words: a name means one thing, and a thing has one name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import kvmpc

ROOT = Path(kvmpc.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))


def test_no_two_public_classes_share_a_name() -> None:
    where: dict[str, list[str]] = defaultdict(list)
    for path in SOURCES:
        if path.parent.name == "abi":
            continue  # the kernel's names
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in where.items() if len(paths) > 1} == {}
