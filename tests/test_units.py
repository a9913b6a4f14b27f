"""Sizes and durations: what is read, what is refused, and what is written."""

from __future__ import annotations

import pytest

from kvmpc.errors import UsageError
from kvmpc.units import (
    GIB,
    KIB,
    MIB,
    format_bytes,
    format_ns,
    format_wait,
    parse_counts,
    parse_duration_ns,
    parse_size_bytes,
    write_duration,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4096", 4096),
        ("0", 0),
        ("64M", 64 * MIB),
        ("64m", 64 * MIB),
        ("64MiB", 64 * MIB),
        ("64MB", 64 * MIB),
        (" 4 GiB ", 4 * GIB),
        ("23K", 23 * KIB),
        ("2T", 2048 * GIB),
        ("100B", 100),
    ],
)
def test_a_size_is_read_in_powers_of_1024(text: str, size_bytes: int) -> None:
    assert parse_size_bytes(text, "--mem-per-vcpu") == size_bytes


@pytest.mark.parametrize(
    "text",
    ["", "M", "1.5G", "-4096", "+4096", "64 MM", "64X", "0x1000", "4_096", "\u0663M", "9" * 5000],
)
def test_a_size_it_would_have_to_guess_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size_bytes(text, "--mem-per-vcpu")
    assert caught.value.option == "--mem-per-vcpu"
    assert caught.value.given == text
    assert "K, M, G or T" in caught.value.allowed


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("0", 0),
        ("0.0", 0),
        ("0us", 0),
        ("17ns", 17),
        ("200us", 200_000),
        ("1.5ms", 1_500_000),
        ("2 s", 2_000_000_000),
        ("0.3us", 300),
    ],
)
def test_a_duration_is_read_with_its_unit(text: str, duration_ns: int) -> None:
    assert parse_duration_ns(text, "--fetch-delay") == duration_ns


@pytest.mark.parametrize(
    "text",
    ["", "5", "us", "-1us", "1e3us", "1,5ms", "2m", "2US", ".5ms", "inf", "nan", "9" * 400 + "s"],
)
def test_a_duration_without_a_clear_unit_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration_ns(text, "--fetch-delay")
    assert caught.value.option == "--fetch-delay"
    assert caught.value.given == text
    assert "ns, us, ms or s" in caught.value.allowed


@pytest.mark.parametrize(
    "count", [0, 1, 23, 1023, 1024, 4096, 23 * 4096, MIB, 997 * MIB, GIB, 640 * GIB]
)
def test_a_written_size_reads_back_as_it_was(count: int) -> None:
    assert parse_size_bytes(format_bytes(count), "size") == count


@pytest.mark.parametrize(
    ("count", "text"),
    [(4096, "4K"), (64 * MIB, "64M"), (4 * GIB, "4G"), (2048 * GIB, "2T"), (5, "5")],
)
def test_a_size_is_written_in_the_largest_unit_that_divides_it(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("value_ns", "text"),
    [
        (0, "0 ns"),
        (7, "7 ns"),
        (999.4, "999 ns"),
        (999.9, "1 us"),
        (12_345, "12.3 us"),
        (999_999, "1 ms"),
        (1_500_000, "1.5 ms"),
        (2e9, "2 s"),
        (61e9, "61 s"),
    ],
)
def test_a_duration_is_written_with_three_digits_and_a_fitting_unit(
    value_ns: float, text: str
) -> None:
    assert format_ns(value_ns) == text


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("8", [8]),
        ("1,2,4", [1, 2, 4]),
        ("1-4", [1, 2, 3, 4]),
        ("2-9:3", [2, 5, 8, 9]),
        ("1-160:x2", [1, 2, 4, 8, 16, 32, 64, 128, 160]),
        ("1-27:x3, 160", [1, 3, 9, 27, 160]),
        ("4,1-4", [4, 1, 2, 3]),
        ("5-5", [5]),
    ],
)
def test_a_list_of_numbers_is_read_and_a_range_ends_at_its_end(
    text: str, counts: list[int]
) -> None:
    assert parse_counts(text, "--vcpus") == counts


@pytest.mark.parametrize(
    "text",
    ["", ",", "-1", "4-1", "1-8:", "1-8:0", "1-8:x1", "0-8:x2", "1-8:x", "1.5", "1-999999999", "a"],
)
def test_a_list_of_numbers_with_a_slip_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_counts(text, "--vcpus")
    assert (caught.value.option, caught.value.given) == ("--vcpus", text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.1, "about 1 s"),
        (89.4, "about 89 s"),
        (90, "about 2 min"),
        (5369, "about 89 min"),
        (5400, "about 1 h 30 min"),
        (90_000, "about 25 h 0 min"),
    ],
)
def test_a_wait_is_told_as_people_say_it(seconds: float, text: str) -> None:
    assert format_wait(seconds) == text


@pytest.mark.parametrize(
    ("value_ns", "text"),
    [
        (0, "0"),
        (1, "1ns"),
        (999, "999ns"),
        (1000, "1us"),
        (1500, "1500ns"),
        (50_000, "50us"),
        (1_500_000, "1500us"),
        (10**9, "1s"),
    ],
)
def test_a_duration_is_written_so_that_it_reads_back_exactly(value_ns: int, text: str) -> None:
    assert write_duration(value_ns) == text
    assert parse_duration_ns(text, "spin") == value_ns
