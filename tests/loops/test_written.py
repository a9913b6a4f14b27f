"""What no run of the loops can show, and their text can: locks and fences."""

from __future__ import annotations

from kvmpc.loops.program import build
from kvmpc.loops.steps import Steps


def test_whatever_several_threads_change_is_changed_by_locked_instructions() -> None:
    # No single-threaded test can see a missing lock.
    shared = ("bts ", "btr ", "inc dword ptr [r", "dec dword ptr [r")
    texts = [line.text for line in build(Steps()).listing]
    found = [text for text in texts if any(form in text for form in shared)]
    assert [text for text in found if not text.startswith("lock ")] == []
    assert [text.split()[1] for text in found].count("inc") == 2
    assert [text.split()[1] for text in found].count("dec") == 2
    assert sorted({text.split()[1] for text in found}) == ["btr", "bts", "dec", "inc"]


def test_whatever_reads_the_tsc_stands_behind_a_fence() -> None:
    # No test can script when a processor reads it. The guest's: tests/vm/test_touch.py.
    texts = [line.text for line in build(Steps()).listing]
    assert [texts[at - 1] for at, text in enumerate(texts) if text == "rdtsc"] == ["lfence"]
