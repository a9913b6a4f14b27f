"""How a line looks: a pager by what it is, the same on every page; anything else in turn.

A pager's colour is that of its kind and of its userfaultfds, its marker that of its readers (Okabe
and Ito's palette without its yellow, which white swallows). What is no pager (a part of a fault, a
lock, a point of a sweep) has colours that no pager has (Paul Tol's muted ones), so that none is
taken for one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Final

from kvmpc.result.pager_info import PagerInfo, pager_of_spelling

__all__ = ["Look", "looks_in_turn", "looks_of_pagers"]

Look = tuple[str, str, object]
"""Colour, marker, dash of a line."""

_COLOURS: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "none": ("#000000", "#000000", "#000000", "#000000"),
    "uffd": ("#0072B2", "#56B4E9", "#009E73", "#4A148C"),  # blue, sky blue, green, violet
    "exit": ("#D55E00", "#E69F00", "#CC79A7", "#8D5524"),  # vermillion, orange, pink, brown
}
"""By kind: with one userfaultfd, with one for each vCPU, with some other number; with rare keys."""

_OTHER_KIND: Final = ("#666666", "#666666", "#666666", "#666666")

_MORE_READERS: Final = ("#5C6BC0", "#00897B", "#9E9D24")  # indigo, teal, olive
"""In the place of the first, where a userfaultfd has more than one reader: 2, 4, 8, and so on."""

_MARKERS: Final[Mapping[str, str]] = {"none": "*p8dhX", "uffd": "oDvPX<>h8", "exit": "spH*^d"}
"""By kind. Of a uffd, that of 1 reader, of 2, of 4, and so on."""

_UFFDS: Final[Mapping[str, int]] = {"one": 0, "per-vcpu": 4}
"""How far on among the markers; any other number of userfaultfds is 5 on."""

_BETWEEN: Final = "s^dH*p"
"""Of a uffd whose readers are no power of two."""

_ALL_MARKERS: Final = "osD^vPX<>*phH8d"

_DASHES: Final = ("solid", (0, (6, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (1.5, 1)), (0, (8, 1, 2, 1)))
_DOTTED: Final = (0, (1, 1.5))

_USUAL: Final[Mapping[str, str]] = {
    "host": "cold", "readers": "1", "uffds": "one", "fetch": "pipelined", "provider": "sigbus",
}  # fmt: skip
"""What a key says where a pager's look owes nothing to it."""

_IN_TURN: Final = (
    "#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE", "#882255", "#44AA99", "#999933",
    "#AA4499",
)  # fmt: skip


def looks_of_pagers(specs: Iterable[str]) -> dict[str, Look]:
    """Return the look of each pager, whatever else is there and in whatever order.

    Only where two of them would have the same colour and marker (rare keys, many reader counts) the
    later one in the alphabet has another marker.
    """
    found: dict[str, Look] = {}
    taken: set[tuple[str, str]] = set()
    pagers = [pager_of_spelling(spec, spec) for spec in set(specs)]
    # What is usual first: nothing that is rare takes its look.
    for pager in sorted(pagers, key=lambda pager: (_oddity(pager), pager.spec)):
        colour = _colour(pager)
        wanted = _marker(pager)
        free = [each for each in wanted + _ALL_MARKERS if (colour, each) not in taken]
        marker = (free or [wanted])[0]
        taken.add((colour, marker))
        found[pager.spec] = (colour, marker, _dash(pager))
    return found


def looks_in_turn(keys: Iterable[str]) -> dict[str, Look]:
    """Return a look for each key that is no pager, in their order."""
    return {
        key: (
            _IN_TURN[turn % len(_IN_TURN)],
            _ALL_MARKERS[turn % len(_ALL_MARKERS)],
            _DASHES[turn % len(_DASHES)],
        )
        for turn, key in enumerate(dict.fromkeys(keys))
    }


def _odd_keys(pager: PagerInfo) -> list[str]:
    """Return what sets a pager apart and has no place of its own in its look."""
    return sorted(
        f"{key}={value}"
        for key, value in pager.keys.items()
        if key not in ("readers", "uffds") and _USUAL.get(key) != value
    )


def _oddity(pager: PagerInfo) -> int:
    return len(_odd_keys(pager))


def _colour(pager: PagerInfo) -> str:
    one, per_vcpu, some, rare = _COLOURS.get(pager.kind, _OTHER_KIND)
    if _odd_keys(pager):
        return rare
    if _power(pager) and _uffds(pager) == 0:
        return _MORE_READERS[(_power(pager) - 1) % len(_MORE_READERS)]
    return {0: one, 4: per_vcpu}.get(_uffds(pager), some)


def _uffds(pager: PagerInfo) -> int:
    return _UFFDS.get(pager.keys.get("uffds", "one"), 5)


def _readers(pager: PagerInfo) -> int:
    text = pager.keys.get("readers", "1")
    return max(1, int(text)) if text.isdecimal() and len(text) < 9 else 1


def _power(pager: PagerInfo) -> int:
    """Return which power of two its readers are, rounded down."""
    return _readers(pager).bit_length() - 1


def _marker(pager: PagerInfo) -> str:
    markers = _MARKERS.get(pager.kind, _ALL_MARKERS)
    readers, at = _readers(pager), _power(pager) + _uffds(pager)
    if readers & (readers - 1):
        markers = _BETWEEN
    odd = _odd_keys(pager)
    # By what it is called, not by when it comes: so on every page.
    at += 1 + zlib.crc32(",".join(odd).encode("utf-8", "replace")) % 5 if odd else 0
    return markers[at % len(markers)]


def _dash(pager: PagerInfo) -> object:
    if pager.kind == "none":
        return _DOTTED
    return _DASHES[(_power(pager) + _uffds(pager) + 3 * bool(_odd_keys(pager))) % len(_DASHES)]
