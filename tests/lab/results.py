"""The lab's JSON, and the table that README shows of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .cells import CELLS, MMU_TITLES
from .machine import PROBES, qemu_version

__all__ = ["SCHEMA", "document", "load", "markdown", "save"]

SCHEMA, VERSION = "kvmpc-lab", 1


def document(boots: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the document of `boots`, as `cells.judge` makes them."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "date": datetime.now(UTC).date().isoformat(),
        "qemu": qemu_version(),
        "kvmpc": version("kvmpc"),
        "boots": list(boots),
    }


def save(path: Path, boots: Sequence[Mapping[str, Any]]) -> None:
    """Write the document of `boots`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(document(boots), indent=1) + "\n")
    partial.rename(path)


def load(path: Path) -> dict[str, Any]:
    """Return a document. Raises: ValueError, OSError."""
    found = json.loads(path.read_text())
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no result of the lab")
    return found


def _numbers(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.2g}" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f}-{high:.1f}"


def _walks(boot: Mapping[str, Any], pager: str) -> str:
    """Return calls a page of the three probes, over the cells of many pages."""
    cells = [cell for cell in boot["cells"] if cell["pager"] == pager]
    shown = []
    for probe in PROBES:
        values = [c["calls_per_page"][probe] for c in cells if probe in c["calls_per_page"]]
        shown.append(_numbers(values) if values else "?")
    return " / ".join(shown)


def _exit_form(boot: Mapping[str, Any]) -> str:
    names = {"annotated": "annotated", "registers": "bare EFAULT", "mmio": "MMIO"}
    seen = {form for cell in boot["cells"] for form, count in cell["exits"].items() if count}
    return ", ".join(text for form, text in names.items() if form in seen) or "none"


def _stops(boot: Mapping[str, Any]) -> str:
    seconds = [s["gone_s"] for s in boot["stops"] if s.get("gone_s") is not None]
    if not seconds or len(seconds) != len(boot["stops"]):
        return "FAILED" if boot["stops"] else "-"
    return f"{max(seconds):.1f} s"


def _host_tests(summary: str) -> str:
    """Return pytest's last line without what was left out on purpose, and without the time."""
    found = summary.split(" in ")[0].strip("= ").split(", ")
    return ", ".join(part for part in found if not part.endswith("deselected"))


def markdown(lab: Mapping[str, Any]) -> str:
    """Return the table *kernels and MMUs kvmpc is proven on*."""
    head = (
        "| kernel | MMU | vCPUs | cells verified | exits arrive as | calls a page: exit | uffd "
        "| none | none,host=populated | slowest stop | tests inside |"
    )
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for boot in lab["boots"]:
        cells = boot["cells"]
        good = sum(cell["status"] == "ok" for cell in cells)
        vcpus = ", ".join(str(n) for n in sorted({cell["vcpus"] for cell in cells}))
        host = boot["host_tests"]
        row = (
            boot["kernel"],
            MMU_TITLES[boot["mmu"]],
            vcpus,
            f"{good} of {len(cells)}",
            _exit_form(boot),
            *(_walks(boot, pager) for pager in ("exit", "uffd", "none", "none,host=populated")),
            _stops(boot),
            "-" if host is None else _host_tests(host["summary"]),
        )
        lines.append("| " + " | ".join(row) + " |")
    complete = "" if all(len(b["cells"]) == len(CELLS) for b in lab["boots"]) else " In part only."
    lines += [
        "",
        f"{lab['date']}, kvmpc {lab['kvmpc']}, QEMU {lab['qemu']}, software emulation of an AMD "
        f"EPYC with SVM.{complete} Calls a page: `{'`, `'.join(PROBES)}`. Slowest stop: until the "
        "last vCPU's thread was gone.",
    ]
    return "\n".join(lines) + "\n"
