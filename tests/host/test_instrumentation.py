"""Checks built into a kernel and tracing that is on, from files of a made-up host."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from kvmpc.host.facts import collect
from kvmpc.host.instrumentation import debug_options, tracing_facts
from kvmpc.judge.host_cautions import cautions_of_host
from tests.fakes.trees import plant

CONFIG = """\
# CONFIG_KASAN is not set
CONFIG_LIST_HARDENED=y
CONFIG_DEBUG_LIST=y
CONFIG_PROVE_LOCKING=y
CONFIG_KCSAN=m
CONFIG_DEBUG_VM_PGTABLE=y
CONFIG_PREEMPT_RT=y
"""
FOUND = ["PROVE_LOCKING", "DEBUG_LIST", "PREEMPT_RT"]


def _codes(root: Path) -> dict[str, str]:
    return {each.code: each.text for each in cautions_of_host(collect(root), vcpu_threads=1)}


def test_options_are_read_from_the_running_kernels_own_configuration(tmp_path: Path) -> None:
    plant(tmp_path, {"boot/config-6.1": "CONFIG_KASAN=y\n"})
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/config.gz").write_bytes(gzip.compress(CONFIG.encode()))
    assert debug_options(tmp_path, "6.1") == FOUND


def test_options_are_read_from_boot_by_the_release(tmp_path: Path) -> None:
    plant(tmp_path, {"boot/config-6.1": CONFIG, "boot/config-6.2": "CONFIG_KASAN=y\n"})
    assert debug_options(tmp_path, "6.1") == FOUND
    assert debug_options(tmp_path, "6.2") == ["KASAN"]
    assert debug_options(tmp_path, "6.3") is None


@pytest.mark.parametrize("release", [None, "../6.1", "/etc"])
def test_without_a_release_there_is_no_configuration(tmp_path: Path, release: str | None) -> None:
    plant(tmp_path, {"6.1": CONFIG, "boot/config-": CONFIG})
    assert debug_options(tmp_path, release) is None


@pytest.mark.parametrize("packed", [b"", b"CONFIG_KASAN=y", gzip.compress(b"x" * 99)[:20]])
def test_a_configuration_that_is_none_is_left_out(tmp_path: Path, packed: bytes) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/config.gz").write_bytes(packed)
    assert not debug_options(tmp_path, None)


def test_without_a_configuration_the_kernels_files_tell(tmp_path: Path) -> None:
    assert debug_options(tmp_path, "6.1") is None
    plant(tmp_path, {"proc/lockdep": "all lock classes:\n", "sys/kernel/realtime": "1\n"})
    assert debug_options(tmp_path, "6.1") == ["LOCKDEP", "PREEMPT_RT"]


def test_what_nobody_runs_with_is_of_this_run_and_the_rest_of_the_host(tmp_path: Path) -> None:
    plant(tmp_path, {"boot/config-6.1": CONFIG, "proc/sys/kernel/osrelease": "6.1\n"})
    kinds = {each.code: each for each in cautions_of_host(collect(tmp_path), vcpu_threads=1)}
    assert "(PROVE_LOCKING)" in kinds["debug-kernel"].text
    assert "DEBUG_LIST, PREEMPT_RT" in kinds["kernel-build"].text
    assert (kinds["debug-kernel"].kind, kinds["kernel-build"].kind) == ("run", "host")


HOOKED = """\
kvm_mmu_page_fault (1) R I \ttramp: 0xffffffffa0000000
bpf_lsm_file_open (1) D M
handle_userfault (2)

"""


@pytest.mark.parametrize("tracefs", ["sys/kernel/tracing", "sys/kernel/debug/tracing"])
def test_tracing_on_the_path_is_seen_and_elsewhere_not(tmp_path: Path, tracefs: str) -> None:
    plant(
        tmp_path,
        {
            f"{tracefs}/current_tracer": "function_graph\n",
            f"{tracefs}/set_event": "kvm:kvm_exit\nnet:net_dev_xmit\nsched:sched_switch\n",
            f"{tracefs}/enabled_functions": HOOKED,
            "sys/kernel/debug/kprobes/list": "ffffffff810 k do_sys_open+0x0 [FTRACE]\n",
        },
    )
    assert tracing_facts(tmp_path) == {
        "tracer": "function_graph",
        "events": ["kvm:kvm_exit", "sched:sched_switch"],
        "functions": ["kvm_mmu_page_fault", "handle_userfault"],
        "kprobes_count": 1,
    }
    assert (
        "(function_graph, kvm:kvm_exit, sched:sched_switch and 2 more)"
        in _codes(tmp_path)["tracing"]
    )


def test_a_host_at_rest_traces_nothing(tmp_path: Path) -> None:
    tracefs = "sys/kernel/tracing"
    quiet = {"current_tracer": "nop\n", "set_event": "", "enabled_functions": "\n"}
    plant(tmp_path, {f"{tracefs}/{name}": text for name, text in quiet.items()})
    assert "tracing" not in collect(tmp_path)
    assert "tracing" not in _codes(tmp_path)


def test_kprobes_alone_are_said(tmp_path: Path) -> None:
    plant(tmp_path, {"sys/kernel/debug/kprobes/list": "1 k a+0x0\n2 r b+0x0\n"})
    assert "(2 kprobes)" in _codes(tmp_path)["tracing"]


def test_few_names_are_kept_of_a_kernel_that_is_traced_everywhere(tmp_path: Path) -> None:
    every = "".join(f"kvm:event_{n}\n" for n in range(2000))
    plant(
        tmp_path,
        {"sys/kernel/tracing/current_tracer": "nop", "sys/kernel/tracing/set_event": every},
    )
    events = tracing_facts(tmp_path)["events"]
    assert isinstance(events, list)
    assert len(events) == 20
