"""What is read back of a part: which pages, which words of them, and where it stops."""

from __future__ import annotations

import ctypes

import pytest

from kvmpc.loops.records import WRITTEN_WORD, InspectRecord, Return
from kvmpc.units import PAGE_BYTES
from kvmpc.vm.memory import DATA_GPA
from kvmpc.work.tags import ZERO, TagRule, tag_rule
from tests.fakes.scripted import ScriptedKernel

WORDS = PAGE_BYTES // 8
GPA = DATA_GPA + 5 * PAGE_BYTES
TAGS = tag_rule(7)
BODY = 0xB0D7_0123_4567_89AB
NOT_READ = 0xDEAD_BEEF_DEAD_BEEF
SPARSE = pytest.mark.parametrize(
    ("shift", "stride", "touched"), [(0, 1, 23), (0, 3, 7), (2, 8, 11)]
)


class Part:
    """A part of memory whose touched pages are as they should be, and the others are not."""

    def __init__(
        self,
        shift: int,
        stride: int,
        touched: int,
        *,
        written: bool,
        tags: TagRule = TAGS,
        body_words: int = 0,
    ) -> None:
        self.pages = [(index >> shift) * stride + index % (1 << shift) for index in range(touched)]
        self.words = (ctypes.c_uint64 * ((max(self.pages) + 1) * WORDS))()
        for number in range(len(self.words)):
            self.words[number] = NOT_READ
        for page in self.pages:
            gpa = GPA + page * PAGE_BYTES
            self.words[page * WORDS] = tags.tag(gpa)
            self.words[page * WORDS + WRITTEN_WORD // 8] = gpa if written else 0
            for word in range(WORDS - 1 - body_words, WORDS - 1):
                self.words[page * WORDS + word] = BODY
            self.words[page * WORDS + WORDS - 1] = tags.last_word(gpa)
        self.record = InspectRecord(
            hva=ctypes.addressof(self.words),
            gpa=GPA,
            end=touched,
            run_shift=shift,
            run_stride=stride,
            tag_multiplier=tags.multiplier,
            tag_seed=tags.seed,
            written=~0 if written else 0,
            body=BODY,
            body_words=body_words,
        )


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("tags", [TAGS, ZERO])
@SPARSE
def test_pages_that_hold_what_they_should_are_right_and_no_others_are_read(
    kernel: ScriptedKernel, shift: int, stride: int, touched: int, tags: TagRule, written: bool
) -> None:
    part = Part(shift, stride, touched, written=written, tags=tags)
    before = bytes(part.words)
    assert kernel.run("inspect", part.record) == Return.OK
    assert part.record.index == touched
    assert bytes(part.words) == before


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("bit", [0, 31, 32, 63])
@pytest.mark.parametrize("offset", [0, WRITTEN_WORD, PAGE_BYTES - 8])
@SPARSE
def test_one_wrong_bit_stops_it_at_the_index_of_the_page(
    kernel: ScriptedKernel,
    shift: int,
    stride: int,
    touched: int,
    offset: int,
    bit: int,
    written: bool,
) -> None:
    for index in (0, touched // 2, touched - 1):
        part = Part(shift, stride, touched, written=written)
        part.words[part.pages[index] * WORDS + offset // 8] ^= 1 << bit
        assert kernel.run("inspect", part.record) == Return.WRONG
        assert part.record.index == index


@pytest.mark.parametrize("index", [0, 9])
def test_a_page_whose_written_word_is_that_of_a_fresh_one_is_wrong(
    kernel: ScriptedKernel, index: int
) -> None:
    part = Part(0, 1, 23, written=True)
    part.words[part.pages[index] * WORDS + WRITTEN_WORD // 8] = 0
    assert kernel.run("inspect", part.record) == Return.WRONG
    assert part.record.index == index


WHOLE, STAMPED = WORDS - 3, WORDS - 9


@pytest.mark.parametrize("body_words", [1, STAMPED, WHOLE])
@SPARSE
def test_a_body_that_is_right_is_right_and_what_is_none_of_it_is_not_read(
    kernel: ScriptedKernel, shift: int, stride: int, touched: int, body_words: int
) -> None:
    part = Part(shift, stride, touched, written=True, body_words=body_words)
    assert kernel.run("inspect", part.record) == Return.OK
    assert part.record.index == touched


@pytest.mark.parametrize("body_words", [STAMPED, WHOLE])
@pytest.mark.parametrize("bit", [0, 63])
def test_one_wrong_bit_anywhere_in_the_body_is_found(
    kernel: ScriptedKernel, body_words: int, bit: int
) -> None:
    part = Part(0, 1, 3, written=True, body_words=body_words)
    for word in range(WORDS - 1 - body_words, WORDS - 1):
        part.words[WORDS + word] ^= 1 << bit
        part.record.index = 0
        assert kernel.run("inspect", part.record) == Return.WRONG
        assert part.record.index == 1
        part.words[WORDS + word] ^= 1 << bit
    part.record.index = 0
    assert kernel.run("inspect", part.record) == Return.OK


def test_a_piece_is_read_from_its_first_to_its_last_index(kernel: ScriptedKernel) -> None:
    part = Part(0, 1, 23, written=True)
    part.words[2 * WORDS] = part.words[9 * WORDS] = NOT_READ
    part.record.index, part.record.end = 3, 9
    assert kernel.run("inspect", part.record) == Return.OK
    assert part.record.index == 9
    part.record.end = 10
    assert kernel.run("inspect", part.record) == Return.WRONG
    part.record.index = part.record.end = 23
    assert kernel.run("inspect", part.record) == Return.OK
