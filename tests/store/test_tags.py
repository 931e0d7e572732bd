from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.store.tags import Join, TagTable, tag_tables


def array(tags, width):
    return np.frombuffer(b"".join(tags), np.uint8).reshape(-1, width)


def joined(folder, lists, width, *, budget=1 << 30, bits=None):
    """Return the join of lists of tags, the common tags with their positions, and its oracle's answers."""
    tables = tag_tables(folder, width, expected=[len(tags) for tags in lists], budget=budget)
    if bits is not None:
        tables = tuple(TagTable(folder, width, expected=1, budget=1, bits=b) for b in bits)
    for table, tags in zip(tables, lists, strict=True):
        half = len(tags) // 2
        table.append(array(tags[:half], width))
        table.append(array(tags[half:], width))
    join = Join(tables)
    parts = list(join)
    for table in tables:
        table.close()
    found = {
        tag.tobytes(): tuple(positions)
        for part in parts
        for tag, positions in zip(part.tags, part.positions.tolist(), strict=True)
    }
    order = [tag.tobytes() for part in parts for tag in part.tags]
    assert order == sorted(order)
    assert len(order) == len(found)
    return join, found, parts


def cells(lists):
    sets = [set(tags) for tags in lists]
    count = Counter(sum(1 << i for i, s in enumerate(sets) if tag in s) for tag in set().union(*sets))
    return [count[cell] for cell in range(1 << len(lists))]


# few different tags, so that all cells, equal leading words and repetitions occur
TAG = st.tuples(
    st.sampled_from([b"\0" * 8, b"abcdefgh", b"\xff" * 8]), st.binary(min_size=2, max_size=2)
).map(b"".join) | st.binary(min_size=10, max_size=10)
POOL = st.lists(TAG, min_size=1, max_size=30, unique=True)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_join_is_the_intersection(tmp_path_factory, data):
    pool = data.draw(POOL)
    m = data.draw(st.integers(1, 4))
    lists = [data.draw(st.lists(st.sampled_from(pool), unique=True, max_size=30)) for _ in range(m)]
    bits = data.draw(st.none() | st.lists(st.integers(0, 4), min_size=m, max_size=m))
    join, found, _ = joined(tmp_path_factory.mktemp("tags"), lists, 10, bits=bits)
    common = set(lists[0]).intersection(*lists[1:])
    assert found == {tag: tuple(tags.index(tag) for tags in lists) for tag in common}
    assert join.cells.tolist() == cells(lists)
    assert join.duplicates.tolist() == [0] * m


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_repeated_tags_are_counted(tmp_path_factory, data):
    pool = data.draw(POOL)
    lists = [data.draw(st.lists(st.sampled_from(pool), max_size=30)) for _ in range(3)]
    join, found, _ = joined(tmp_path_factory.mktemp("tags"), lists, 10)
    assert join.duplicates.tolist() == [len(tags) - len(set(tags)) for tags in lists]
    assert join.cells.tolist() == cells(lists)
    for tag, positions in found.items():
        assert [tags[p] for tags, p in zip(lists, positions, strict=True)] == [tag] * 3


@pytest.mark.parametrize("budget", [1 << 30, 1 << 16])
def test_larger_lists(tmp_path, budget):
    rng = np.random.default_rng(3)
    pool = [row.tobytes() for row in rng.integers(0, 256, (6000, 11), dtype=np.uint8)]
    lists = [[pool[i] for i in rng.permutation(6000)[:4000]] for _ in range(6)]
    join, found, parts = joined(tmp_path, lists, 11, budget=budget)
    assert join.cells.tolist() == cells(lists)
    assert set(found) == set(lists[0]).intersection(*lists[1:])
    assert len(parts) == {1 << 30: 1, 1 << 16: 64}[budget]
    assert list(tmp_path.iterdir()) == []


def test_positions_may_be_given(tmp_path):
    tags = np.arange(24, dtype=np.uint8).reshape(3, 8)
    with TagTable(tmp_path, 8, expected=3, budget=1 << 20) as one:
        one.append(tags, np.array([2**33, 5, 0]))
        (part,) = Join([one])
        assert part.positions.tolist() == [[2**33], [5], [0]]
        assert part.positions.dtype == np.int64
        assert repr(part) == "Common(3 tags of 1 lists)"
        assert repr(one) == "TagTable(3 tags of 8 bytes)"


def test_a_join_can_be_run_again(tmp_path):
    with TagTable(tmp_path, 8, expected=3, budget=1 << 20) as one:
        one.append(np.arange(24, dtype=np.uint8).reshape(3, 8))
        join = Join([one, one])
        for _ in range(2):
            assert sum(map(len, join)) == 3
            assert join.cells.tolist() == [0, 0, 0, 3]


def test_wrong_use_is_refused(tmp_path):
    with pytest.raises(ValueError):
        TagTable(tmp_path, 7, expected=1, budget=1 << 20)
    one = TagTable(tmp_path, 8, expected=1, budget=1 << 20)
    other = TagTable(tmp_path, 9, expected=1, budget=1 << 20)
    with pytest.raises(ValueError):
        Join([one, other])
    with pytest.raises(ValueError):
        Join([])
    with pytest.raises(ValueError):
        Join([one] * 7)
