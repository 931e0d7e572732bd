from hypothesis import given
from hypothesis import strategies as st

from veilsum.crypto import tags


@given(a=st.integers(0, 2**33), b=st.integers(0, 2**33))
def test_tags_are_wide_enough_and_no_wider(a, b):
    bits = 8 * tags.width(a, b)
    pairs = max(a, 1) * max(b, 1)
    assert pairs * 2**tags.FALSE_MATCH_BITS <= 2**bits < pairs * 2 ** (tags.FALSE_MATCH_BITS + 8)


def test_the_width_of_some_sizes():
    assert [tags.width(n, n) for n in (0, 1, 2, 16, 17, 10**6, 10**9)] == [5, 5, 6, 6, 7, 10, 13]
