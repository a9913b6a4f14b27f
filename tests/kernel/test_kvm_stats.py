"""KVM's statistics: what is made of the descriptors, and when two counts contradict each other."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmpc.errors import KernelError
from kvmpc.kernel.kvm_stats import StatsFd, read_layout
from kvmpc.trial.kvm_counters import disagreements

NAME_BYTES = 16
CUMULATIVE, INSTANT, PEAK, LINEAR, LOG = range(5)

Entry = tuple[str, int, int]
MakeFd = Callable[..., StatsFd]


def document(entries: list[Entry], values: list[int], **header: int) -> bytes:
    """Return what an fd gives: the data before the descriptors, which the header allows."""
    data_offset = 24 + NAME_BYTES
    desc_offset = data_offset + 8 * len(values)
    fields = {
        "flags": 0,
        "name_size": NAME_BYTES,
        "num_desc": len(entries),
        "id_offset": 24,
        "desc_offset": desc_offset,
        "data_offset": data_offset,
    }
    text = struct.pack("=6I", *(fields | header).values()) + b"kvm-1".ljust(NAME_BYTES, b"\0")
    text += struct.pack(f"={len(values)}Q", *values)
    offset = 0
    for name, kind, size in entries:
        text += struct.pack("=IhHII", kind | 0 << 4, 0, size, offset, 0)
        text += name.encode().ljust(NAME_BYTES, b"\0")
        offset += 8 * size
    return text


@pytest.fixture
def make_fd(tmp_path: Path) -> Iterator[MakeFd]:
    opened: list[StatsFd] = []

    def make(content: bytes) -> StatsFd:
        path = tmp_path / "stats"
        path.write_bytes(content)
        fd = StatsFd.__new__(StatsFd)
        fd.fd = os.open(path, os.O_RDONLY)
        opened.append(fd)
        return fd

    yield make
    for fd in opened:
        fd.close()


def test_only_counters_are_read_wherever_they_stand(make_fd: MakeFd) -> None:
    entries = [
        ("hist", LOG, 3),
        ("exits", CUMULATIVE, 1),
        ("pages_4k", INSTANT, 1),
        ("linear", LINEAR, 2),
        ("peak", PEAK, 1),
        ("pf_taken", CUMULATIVE, 1),
        ("several", CUMULATIVE, 2),
    ]
    fd = make_fd(document(entries, [1, 2, 3, 23, 5, 6, 7, 8, 997, 10, 11]))
    layout = read_layout(fd)
    assert dict(zip(layout.names, layout.values(fd), strict=True)) == {"exits": 23, "pf_taken": 997}


def test_a_kernel_without_counters_has_none(make_fd: MakeFd) -> None:
    fd = make_fd(document([("pages_4k", INSTANT, 1)], [23]))
    layout = read_layout(fd)
    assert list(layout.values(fd)) == []


@pytest.mark.parametrize("header", [{"num_desc": 0}, {"num_desc": 1 << 31}, {"name_size": 0}])
def test_a_header_that_makes_no_sense_is_refused(make_fd: MakeFd, header: dict[str, int]) -> None:
    fd = make_fd(document([("exits", CUMULATIVE, 1)], [23], **header))
    with pytest.raises(KernelError) as raised:
        read_layout(fd)
    assert raised.value.errno == errno.EPROTO


def test_a_document_that_ends_early_is_an_error(make_fd: MakeFd) -> None:
    whole = document([("exits", CUMULATIVE, 1)], [23])
    with pytest.raises(KernelError):
        read_layout(make_fd(whole[:-1]))
    with pytest.raises(KernelError):
        read_layout(make_fd(b""))


AGREE = {"exits": 2000, "pf_taken": 1000, "mmio_exits": 0}
COUNTS = {"kvm_runs": 999, "exits_registers": 997, "installs": 997, "exits_mmio": 0}


def test_counts_that_agree_say_nothing() -> None:
    assert disagreements(AGREE, COUNTS) == []


def test_counters_that_this_kernel_lacks_are_not_checked() -> None:
    assert disagreements({}, COUNTS) == []


@pytest.mark.parametrize(
    ("deltas", "counts", "words"),
    [
        ({"exits": 998}, {}, ("998 exits", "999 KVM_RUN calls")),
        ({"pf_taken": 996}, {}, ("996 pf_taken", "997 missing pages")),
        ({"mmio_exits": 1}, {}, ("1 mmio_exits", "0 MMIO exits")),
        ({}, {"exits_mmio": 23}, ("0 mmio_exits", "23 MMIO exits")),
    ],
)
def test_a_contradiction_names_both_numbers(
    deltas: dict[str, int], counts: dict[str, int], words: tuple[str, str]
) -> None:
    [caution] = disagreements(AGREE | deltas, COUNTS | counts)
    assert caution.code == "kvm-stats-disagree"
    assert all(word in caution.text for word in words)


def test_an_interrupted_call_need_not_have_entered_the_guest() -> None:
    assert disagreements(AGREE | {"exits": 998}, COUNTS | {"interrupts": 1}) == []


def test_pages_that_kvm_emulated_an_access_to_took_no_fault() -> None:
    emulated = {"kvm_runs": 999, "installs": 997, "exits_mmio": 997}
    assert disagreements({"exits": 999, "pf_taken": 0, "mmio_exits": 997}, emulated) == []


def test_an_emulated_guest_takes_no_faults() -> None:
    assert disagreements({"exits": 2000, "pf_taken": 0}, {"installs": 997}, ring=0) == []
