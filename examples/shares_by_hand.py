"""Multiply two secrets on replicated shares, by hand: three parties, sums modulo 2^64.

A secret x is x0 + x1 + x2. Party i holds x_i and x_(i+1): one party alone sees two uniform numbers, any two
see everything. This is what `veilsum.mpc.rss3` does for whole arrays, over real connections.
"""

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Shares = list[tuple[Words, Words]]  # what each of the three parties holds

rng = np.random.default_rng()


def share(x: Words) -> Shares:
    """Step 1: an owner cuts a secret into three summands; party i gets two of them."""
    x0, x1 = rng.integers(0, 1 << 64, (2, *x.shape), dtype=np.uint64)
    summands = [x0, x1, x - x0 - x1]
    return [(summands[i], summands[(i + 1) % 3]) for i in range(3)]


def multiply(x: Shares, y: Shares) -> Shares:
    """Steps 2 and 3: every party multiplies what it has, masks its part, and tells one neighbour."""
    # masks that sum to zero; in veilsum they come from keys that neighbours share, without a word
    masks = rng.integers(0, 1 << 64, (3, *x[0][0].shape), dtype=np.uint64)
    parts = []
    for i in range(3):
        (x_own, x_next), (y_own, y_next) = x[i], y[i]
        z = x_own * (y_own + y_next) + x_next * y_own  # of the nine products each party has three
        parts.append(z + masks[i] - masks[(i + 1) % 3])
    return [(parts[i], parts[(i + 1) % 3]) for i in range(3)]


def reveal(x: Shares) -> Words:
    """Step 4: every party tells the one that lacks it its summand."""
    return x[0][0] + x[0][1] + x[1][1]


if __name__ == "__main__":
    a, b = np.array([3, 5, 7], np.uint64), np.array([11, 13, 17], np.uint64)
    shares_a, shares_b = share(a), share(b)
    print("party 0 holds of a:", *shares_a[0])
    product = reveal(multiply(shares_a, shares_b))
    print("the product:", product)
    assert product.tolist() == [33, 65, 119]
