import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.errors import ProtocolError, StoreError
from veilsum.store import tables
from veilsum.store.tables import Partitions, Shuffled, order, partition_bits


def random_records(n, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, width), dtype=np.uint8)


def as_bytes(records):
    return [row.tobytes() for row in records]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=11, max_size=11), max_size=40), st.integers(0, 3))
def test_order_is_the_order_of_bytes(rows, common):
    rows = [b"\0" * 8 + row[8:] if i % 4 < common else row for i, row in enumerate(rows)]
    records = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 11)
    assert as_bytes(records[order(records)]) == sorted(rows)


@pytest.mark.parametrize("budget", [1 << 30, 1 << 16, 1 << 12])
def test_partitions_are_the_sorted_table(tmp_path, budget):
    records = random_records(5000, 13)
    with Partitions(tmp_path, 13, expected=5000, budget=budget) as table:
        for part in np.array_split(records, 7):
            table.append(part)
        assert len(table) == 5000
        read = list(table.sorted_partitions())
        assert len(read) == 1 << table.bits
        assert as_bytes(np.concatenate(read)) == sorted(as_bytes(records))
        assert table.bits == {1 << 30: 0, 1 << 16: 2, 1 << 12: 6}[budget]
        again = list(table.sorted_partitions())
        assert all(np.array_equal(a, b) for a, b in zip(read, again, strict=True))
    assert list(tmp_path.iterdir()) == []


def test_files_are_private_and_counted(tmp_path):
    with Partitions(tmp_path, 16, expected=4000, budget=16_000) as table:
        table.append(random_records(4000, 16))
        (folder,) = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        files = list(folder.iterdir())
        assert len(files) == 1 << table.bits == 16
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
        assert sum(file.stat().st_size for file in files) == 64_000
        assert repr(table) == "Partitions(4000 records of 16 bytes)"
        files[0].write_bytes(b"short")
        with pytest.raises(StoreError, match="was changed"):
            list(table.sorted_partitions())
        files[0].unlink()
        with pytest.raises(StoreError):
            list(table.sorted_partitions())


def test_what_a_partition_weighs_does_not_grow(tmp_path):
    """Ten times the records in the same budget make partitions no larger, nor what is pending."""
    budget, largest = 64_000, []
    for n in (2_000, 20_000, 200_000):
        with Partitions(tmp_path, 40, expected=n, budget=budget) as table:
            for part in np.array_split(random_records(n, 40), max(4, n // 5000)):
                table.append(part)
                assert table._held <= budget // 4 + part.nbytes
            largest.append(max(p.nbytes for p in table.sorted_partitions()))
    assert max(largest) < 2 * budget / tables.SORT_COST
    assert partition_bits(0, 10) == 0
    assert partition_bits(41, 10) == 3
    assert partition_bits(10**18, 10) == tables.MOST_BITS


def test_keys_that_are_not_random_are_refused(tmp_path):
    records = random_records(20_000, 16)
    records[:10_000, 0] = 7
    with Partitions(tmp_path, 16, expected=20_000, budget=20_000) as table:
        table.append(records)
        with pytest.raises(ProtocolError, match="begin with the same 6 bits"):
            list(table.sorted_partitions())


def test_wrong_use_is_refused(tmp_path):
    with pytest.raises(ValueError):
        Partitions(tmp_path, 8, expected=1, budget=1, key=9)
    with pytest.raises(ValueError):
        Partitions(tmp_path, 8, expected=1, budget=1, key=1, bits=9)
    with Partitions(tmp_path, 8, expected=1, budget=1 << 20) as table:
        with pytest.raises(ValueError):
            table.append(np.zeros((2, 9), np.uint8))
        with pytest.raises(ValueError):
            table.append(np.zeros((2, 8), np.int8))
    with Shuffled(tmp_path, 4, expected=1, budget=1 << 20) as shuffled, pytest.raises(ValueError):
        shuffled.append(np.zeros((2, 4), np.uint8), np.zeros(3, np.uint64))


def test_appended_records_are_copied(tmp_path):
    records = random_records(10, 9)
    with Partitions(tmp_path, 9, expected=10, budget=1 << 20) as table:
        table.append(records)
        expected = sorted(as_bytes(records))
        records[:] = 0
        assert as_bytes(next(table.sorted_partitions())) == expected


def test_full_disk(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Partitions(tmp_path, 16, expected=4000, budget=16_000) as table:
        monkeypatch.setattr(os, "fdopen", full)
        with pytest.raises(StoreError, match="full") as caught:
            table.append(random_records(4000, 16))
        assert caught.value.remedy
        monkeypatch.undo()
    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(StoreError, match="full"):
        Partitions(tmp_path / "x", 16, expected=4000, budget=16_000)


# the secret shuffle


@pytest.mark.parametrize("budget", [1 << 30, 1 << 13])
@pytest.mark.parametrize("size", [1, 7, 500, 5000])
def test_shuffle_is_the_permutation_of_its_numbers(tmp_path, budget, size):
    n = 1200
    records = random_records(n, 40)
    keys = np.random.default_rng(1).integers(0, 2**64, n, dtype=np.uint64)
    with Shuffled(tmp_path, 40, expected=n, budget=budget) as shuffled:
        for part, part_keys in zip(np.array_split(records, 5), np.array_split(keys, 5), strict=True):
            shuffled.append(part, part_keys)
        chunks = list(shuffled.chunks(size))
        assert len(shuffled) == n
        assert [len(c) for c in chunks] == [size] * (n // size) + ([n % size] if n % size else [])
        assert np.array_equal(np.concatenate(chunks), records[np.argsort(keys)])
        for start in (1, len(chunks) // 2, len(chunks), len(chunks) + 3):
            rest = list(shuffled.chunks(size, start=start))
            assert as_bytes(np.concatenate([*rest, records[:0]])) == as_bytes(
                np.concatenate([*chunks[start:], records[:0]])
            )


def test_shuffle_forgets_where_records_came_from(tmp_path):
    """Over many shuffles every record stands everywhere about equally often."""
    rng, seen = np.random.default_rng(2), np.zeros((4, 4))
    for _ in range(400):
        with Shuffled(tmp_path, 1, expected=4, budget=1 << 20) as shuffled:
            shuffled.append(np.arange(4, dtype=np.uint8)[:, None], rng.integers(0, 2**64, 4, dtype=np.uint64))
            (chunk,) = shuffled.chunks(10)
        seen[np.arange(4), chunk[:, 0]] += 1
    assert (abs(seen - 100) < 40).all()


def test_empty_shuffle(tmp_path):
    for budget in (1 << 20, 1 << 8):
        with Shuffled(tmp_path, 40, expected=100, budget=budget) as shuffled:
            assert list(shuffled.chunks(10)) == []
