"""How wide tags must be so that different ids do not meet in them."""

from typing import Final

FALSE_MATCH_BITS: Final = 40


def width(n_total_a: int, n_total_b: int) -> int:
    """Return the bytes of a tag: ⌈(40 + log2 a + log2 b) / 8⌉ for lists of a and b ids.

    Of a·b pairs of different ids, any are then taken for equal with probability below 2^-40, where tags of
    different ids are as good as independent and uniform.
    """
    pairs = max(n_total_a, 1) * max(n_total_b, 1)
    return -(-(FALSE_MATCH_BITS + (pairs - 1).bit_length()) // 8)
