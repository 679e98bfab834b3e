"""The fingerprint of a set of messages. Its laws are in tests/laws."""

from __future__ import annotations

from crossfoot.books.digest import EMPTY, Tally, lanes, tally_of
from crossfoot.books.record import BUCKET, bucket_of
from crossfoot.clock import SECOND


def test_lanes_are_in_databases_and_never_change() -> None:
    assert lanes("billing|0001") == (0x62BA8A48, 0x2556C2E6)
    assert lanes("") == (0xE4A6A057, 0x7479B2B4)


def test_an_identity_is_hashed_as_utf_8() -> None:
    assert lanes("señal|ø") != lanes("senal|o")


def test_source_and_id_are_both_part_of_the_identity() -> None:
    assert tally_of("billing|1") != tally_of("orders|1")


def test_the_tally_of_nothing_is_false_and_any_other_is_not() -> None:
    assert not EMPTY
    assert tally_of("a|1")
    assert tally_of("a|1") - tally_of("a|2"), "the count is zero, the set is not"


def test_a_digest_is_sixteen_hexadecimal_digits_also_below_zero() -> None:
    assert EMPTY.digest == "0" * 16
    assert Tally(1, 0xAB, 1).digest == "000000ab00000001"
    assert (EMPTY - Tally(1, 1, 2)).digest == "fffffffffffffffe"


def test_a_bucket_starts_at_a_full_minute() -> None:
    assert bucket_of(0) == 0
    assert bucket_of(BUCKET - 1) == 0
    assert bucket_of(BUCKET) == 60
    assert bucket_of(1_700_000_030 * SECOND) == 1_700_000_030 // 60 * 60
    assert bucket_of(-1) == -60, "also before 1970"
