import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veilsum.arith import cpu, ring
from veilsum.arith import ring_twin as twin

PATHS = cpu.usable("ring")
TOP = 2**64 - 1
EDGES = np.array([0, 1, 2, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, TOP - 1, TOP], np.uint64)
COUNTS = [0, 1, 7, 8, 63, 64, 65, 127, 128, 511, 512, 513, 1000]
SIZES = [
    (0, 0, 0),
    (0, 3, 2),
    (3, 0, 2),
    (3, 2, 0),
    (1, 1, 1),
    (1, 200, 1),
    (2, 3, 5),
    (8, 16, 16),
    (9, 17, 33),
    (16, 64, 16),
    (17, 65, 17),
    (31, 63, 48),
    (40, 129, 10),
    (5, 600, 300),
    (70, 513, 257),
    (128, 257, 30),
]


def rows(rng, *shape):
    """Random words; every eighth one is at an edge of the range."""
    drawn = rng.integers(0, TOP, shape, np.uint64, endpoint=True)
    return np.where(rng.integers(0, 8, shape) == 0, rng.choice(EDGES, shape), drawn)


def views(array):
    """The same matrix in other layouts: transposed, sliced, spread, as a block of a larger one."""
    n, m = array.shape
    spread = np.zeros((3 * n, 2 * m), np.uint64)
    spread[::3, ::2] = array
    wide = np.zeros((n + 2, m + 5), np.uint64)
    wide[1:-1, 3:-2] = array
    return {
        "contiguous": array,
        "transposed": np.ascontiguousarray(array.T).T,
        "spread": spread[::3, ::2],
        "spread, transposed": np.ascontiguousarray(spread.T).T[::3, ::2],
        "block": wide[1:-1, 3:-2],
    }


class TestMatmul:
    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("sizes", SIZES)
    def test_any_size_and_any_layout_agree_with_the_twin(self, path, sizes):
        n, k, m = sizes
        rng = np.random.default_rng(n + k + m)
        a, b = rows(rng, n, k), rows(rng, k, m)
        expected = twin.matmul(a, b)
        for left in views(a).values():
            for right in views(b).values():
                got = ring.matmul(left, right, path=path)
                assert got.shape == (n, m)
                assert np.array_equal(got, expected)

    @pytest.mark.parametrize("path", PATHS)
    @settings(max_examples=40, deadline=None)
    @given(
        n=st.integers(0, 40),
        k=st.integers(0, 150),
        m=st.integers(0, 40),
        seed=st.integers(0, 2**32),
        data=st.data(),
    )
    def test_drawn_sizes_agree_with_the_twin(self, path, n, k, m, seed, data):
        rng = np.random.default_rng(seed)
        a, b, c = rows(rng, n, k), rows(rng, k, m), rows(rng, n, m)
        layout = st.sampled_from(sorted(views(a)))
        left, right = views(a)[data.draw(layout)], views(b)[data.draw(layout)]
        out = c.copy()
        assert ring.matmul(left, right, out=out, accumulate=True, path=path) is out
        assert np.array_equal(out, c + twin.matmul(a, b))
        ring.matmul(left, right, out=out, path=path)
        assert np.array_equal(out, twin.matmul(a, b))

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("k", [511, 512, 8192, 8193, 16_513, 20_000])
    @pytest.mark.parametrize("value", [TOP, 0x00000000FFFFFFFF, 0xFF00FF00FF00FF00])
    def test_the_largest_limbs_do_not_overflow_their_sums(self, path, k, value):
        # TOP has the largest limbs everywhere: sums of their products grow the fastest
        a, b = np.full((17, k), value, np.uint64), np.full((k, 18), value, np.uint64)
        expected = value * value * k & TOP
        assert np.all(ring.matmul(a, b, path=path) == np.uint64(expected))

    @pytest.mark.parametrize("path", PATHS)
    def test_zero_strides_repeat_a_row_or_a_column(self, path):
        rng = np.random.default_rng(3)
        a, b = rows(rng, 1, 90), rows(rng, 90, 1)
        many, wide = np.broadcast_to(a, (33, 90)), np.broadcast_to(b, (90, 21))
        assert np.array_equal(ring.matmul(many, wide, path=path), twin.matmul(many, wide))
        one = np.broadcast_to(np.uint64(TOP), (20, 70))
        assert np.array_equal(ring.matmul(one, one.T, path=path), np.full((20, 20), 70, np.uint64))

    @pytest.mark.parametrize("path", PATHS)
    def test_laws_of_a_ring(self, path):
        rng = np.random.default_rng(4)
        a, b, c = (rows(rng, 40, 40) for _ in range(3))
        one = np.eye(40, dtype=np.uint64)

        def mul(x, y):
            return ring.matmul(x, y, path=path)

        assert np.array_equal(mul(mul(a, b), c), mul(a, mul(b, c)))
        assert np.array_equal(mul(a, b + c), mul(a, b) + mul(a, c))
        assert np.array_equal(mul(a, one), a)
        assert np.array_equal(mul(a, b).T, mul(b.T, a.T))
        assert np.array_equal(mul(-a, b), -mul(a, b))

    @pytest.mark.parametrize("path", PATHS)
    def test_threads_do_not_disturb_each_other(self, path):
        rng = np.random.default_rng(5)
        pairs = [(rows(rng, 64, 200), rows(rng, 200, 64)) for _ in range(4)]
        wrong = []

        def work(a, b):
            expected = twin.matmul(a, b)
            wrong.extend(i for i in range(50) if not np.array_equal(ring.matmul(a, b, path=path), expected))

        threads = [threading.Thread(target=work, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    @pytest.mark.parametrize("path", PATHS)
    def test_inputs_are_read_only(self, path):
        rng = np.random.default_rng(6)
        a, b = rows(rng, 30, 70), rows(rng, 70, 30)
        before = a.copy(), b.copy()
        a.flags.writeable = b.flags.writeable = False
        ring.matmul(a, b, path=path)
        assert np.array_equal(a, before[0])
        assert np.array_equal(b, before[1])

    def test_the_best_path_is_the_default(self):
        a = rows(np.random.default_rng(7), 20, 20)
        assert np.array_equal(ring.matmul(a, a), twin.matmul(a, a))

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize(
        ("a", "b", "error", "what"),
        [
            (
                np.zeros((2, 3), np.int64),
                np.zeros((3, 2), np.uint64),
                TypeError,
                "a must be an array of uint64",
            ),
            (np.zeros((2, 3), np.uint64), np.zeros((3, 2)), TypeError, "b must be an array of uint64"),
            (np.zeros((2, 3), ">u8"), np.zeros((3, 2), np.uint64), TypeError, "a must be"),
            (np.zeros((2, 3), np.uint32), np.zeros((3, 2), np.uint64), TypeError, "a must be"),
            ([[1]], np.zeros((1, 1), np.uint64), TypeError, "list"),
            (np.zeros((2, 3), np.uint64), np.zeros((2, 3), np.uint64), ValueError, "as many rows"),
            (np.zeros(3, np.uint64), np.zeros((3, 2), np.uint64), ValueError, "two dimensions"),
            (np.zeros((1, 2, 3), np.uint64), np.zeros((3, 2), np.uint64), ValueError, "two dimensions"),
            (np.zeros((2, 3), np.uint64)[::-1], np.zeros((3, 2), np.uint64), ValueError, "strides"),
        ],
    )
    def test_wrong_matrices_are_refused(self, path, a, b, error, what):
        with pytest.raises(error, match=what):
            ring.matmul(a, b, path=path)

    @pytest.mark.parametrize("path", PATHS)
    def test_wrong_outputs_are_refused(self, path):
        space = np.zeros((8, 8), np.uint64)
        a, b, c = np.zeros((4, 8), np.uint64), np.zeros((8, 4), np.uint64), np.zeros((4, 4), np.uint64)
        fixed = c.copy()
        fixed.flags.writeable = False
        for out, error, what in [
            (np.zeros((4, 5), np.uint64), ValueError, "number of elements"),
            (np.zeros((2, 8), np.uint64), ValueError, "row"),
            (np.zeros(16, np.uint64), ValueError, "row"),
            (np.zeros((4, 8), np.uint64)[:, ::2], ValueError, "contiguous"),
            (np.zeros((4, 4), np.int64), TypeError, "out must be an array of uint64"),
            (fixed, ValueError, "writeable"),
        ]:
            with pytest.raises(error, match=what):
                ring.matmul(a, b, out=out, path=path)
        with pytest.raises(ValueError, match="overlap"):
            ring.matmul(space[:4, :4], c, out=space[:2].reshape(4, 4), path=path)
        with pytest.raises(ValueError, match="overlap"):
            ring.matmul(c, c.copy(), out=c, path=path)
        with pytest.raises(ValueError, match="needs out"):
            ring.matmul(a, b, accumulate=True, path=path)


# name -> (how many arrays of n elements, which of them are bit planes, other arguments with their places)
STEPS = {
    "product": (4, (), {}),
    "add_masks": (3, (), {}),
    "conjunction": (6, (), {}),
    "majority": (8, (), {}),
    "truncate_share": (6, (1, 2, 3), {5: 18, 6: True}),
    "select_deal": (6, (1,), {}),
    "select_take": (6, (1,), {4: True}),
}


def arguments(name, rng, shape, changed=None):
    count, bit_planes, constants = STEPS[name]
    n = int(np.prod(shape))
    found = [rows(rng, ring.words(n)) if i in bit_planes else rows(rng, *shape) for i in range(count)]
    for place, value in sorted((constants | (changed or {})).items()):
        found.insert(place, value)
    return found


def results(result):
    return result if isinstance(result, tuple) else (result,)


def same(got, expected):
    pairs = list(zip(results(got), results(expected), strict=True))
    return all(g.shape == e.shape and np.array_equal(g, e) for g, e in pairs)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", STEPS)
class TestSteps:
    @pytest.mark.parametrize("count", COUNTS)
    def test_any_number_of_elements_agrees_with_the_twin(self, path, name, count):
        args = arguments(name, np.random.default_rng(count), (count,))
        assert same(getattr(ring, name)(*args, path=path), getattr(twin, name)(*args))

    @pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 11), (0, 4), (1, 64)])
    def test_any_shape_is_kept(self, path, name, shape):
        args = arguments(name, np.random.default_rng(1), shape)
        assert same(getattr(ring, name)(*args, path=path), getattr(twin, name)(*args))

    @settings(max_examples=20, deadline=None)
    @given(count=st.integers(0, 300), seed=st.integers(0, 2**32))
    def test_drawn_arrays_agree_with_the_twin(self, path, name, count, seed):
        args = arguments(name, np.random.default_rng(seed), (count,))
        assert same(getattr(ring, name)(*args, path=path), getattr(twin, name)(*args))

    def test_the_largest_words(self, path, name):
        args = arguments(name, np.random.default_rng(1), (130,))
        for value in (0, TOP, 2**63):
            full = [np.full_like(x, value) if isinstance(x, np.ndarray) else x for x in args]
            assert same(getattr(ring, name)(*full, path=path), getattr(twin, name)(*full))

    def test_the_result_may_replace_an_input(self, path, name):
        step = getattr(ring, name)
        args = arguments(name, np.random.default_rng(2), (200,))
        expected = results(getattr(twin, name)(*args))
        elements = [i for i, x in enumerate(args) if isinstance(x, np.ndarray) and x.size == 200]
        for first in elements:
            copies = [x.copy() if isinstance(x, np.ndarray) else x for x in args]
            out = copies[first]
            if len(expected) == 3:
                out = out, np.empty_like(out), np.empty_like(out)
            assert step(*copies, out=out, path=path) is out
            assert same(out, expected if len(expected) == 3 else expected[0])

    def test_other_overlaps_are_refused(self, path, name):
        args = arguments(name, np.random.default_rng(2), (200,))
        space = np.zeros(201, np.uint64)
        args[0], out = space[1:], space[:-1]
        if name == "select_deal":
            out = out, args[2].copy(), args[2].copy()
        with pytest.raises(ValueError, match="overlap"):
            getattr(ring, name)(*args, out=out, path=path)

    def test_a_wrong_argument_is_refused_by_name(self, path, name):
        step = getattr(ring, name)
        args = arguments(name, np.random.default_rng(2), (200,))
        for i, x in enumerate(args):
            if not isinstance(x, np.ndarray):
                continue
            parameter = list(step.__annotations__)[i]
            for wrong, error in [
                (x.astype(np.int64), TypeError),
                (x.astype(np.float64), TypeError),
                (x.astype(">u8"), TypeError),
                (np.repeat(x, 2)[::2], ValueError),
                (np.append(x, x), ValueError),
                (x[:-1], ValueError),
                (x.tobytes(), TypeError),
            ]:
                changed = [*args[:i], wrong, *args[i + 1 :]]
                if i == 0 and error is ValueError:
                    parameter = r"\w+"  # the first one says how many elements there are
                with pytest.raises(error, match=f"{parameter} (must|has)|array of uint64"):
                    step(*changed, path=path)

    def test_a_path_it_does_not_have_is_refused(self, path, name):
        args = arguments(name, np.random.default_rng(2), (2,))
        with pytest.raises(ValueError, match="path"):
            getattr(ring, name)(*args, path=path + "x")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fraction", [1, 2, 18, 31, 32, 61, 62])
@pytest.mark.parametrize("lead", [False, True])
def test_every_fraction_agrees_with_the_twin(path, fraction, lead):
    args = arguments("truncate_share", np.random.default_rng(fraction), (300,))
    args[5:7] = fraction, lead
    assert same(ring.truncate_share(*args, path=path), twin.truncate_share(*args))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fraction", [1, 18, 40])
def test_two_truncated_shares_add_up_to_the_truncated_value(path, fraction):
    rng = np.random.default_rng(fraction)
    n, half = 5000, np.uint64(1) << np.uint64(62)
    edges = np.array([0, 1, 2**fraction, 2**61 - 1, -1, -(2**61), 2**62 - 1, -(2**62)], np.int64)
    values = np.concatenate([edges, rng.integers(-(2**62), 2**62, n - len(edges))])
    s = rows(rng, 2, n)
    s[1] = values.astype(np.uint64) + half - s[0]
    t = rng.integers(0, 2, (2, n), np.uint64)  # the triple: t[0] · t[1] shared as c[0] + c[1]
    c = rows(rng, 2, n)
    c[1] = t[0] * t[1] - c[0]
    top = (s >> np.uint64(63)) ^ t
    masked, triples = [ring.plane(x, 0, path=path) for x in top], [ring.plane(x, 0, path=path) for x in t]
    zero = np.zeros(n, np.uint64)
    parts = [
        ring.truncate_share(
            s[i], masked[i], masked[1 - i], triples[i], c[i], fraction, i == 0, zero, path=path
        )
        for i in (0, 1)
    ]
    error = (parts[0] + parts[1]).astype(np.int64) - (values >> fraction)
    assert set(error.tolist()) <= {-1, 0}


@pytest.mark.parametrize("path", PATHS)
def test_a_selection_opens_to_the_chosen_values(path):
    rng = np.random.default_rng(8)
    n = 1000
    u, v, w0, c0, r = (rows(rng, n) for _ in range(5))
    bits = rng.integers(0, 2, (2, n), np.uint64)
    c, d = (ring.plane(x, 0, path=path) for x in bits)
    zero = np.zeros(n, np.uint64)
    w1, c1, z0 = ring.select_deal(u, c, w0, c0, r, zero, path=path)
    z1 = ring.select_take(v, d, w0, c0, True, zero, r, path=path)
    z2 = ring.select_take(v, d, w1, c1, False, zero, zero, path=path)
    assert np.array_equal(z0 + z1 + z2, (bits[0] ^ bits[1]) * (u + v))


@pytest.mark.parametrize("path", PATHS)
class TestPlanes:
    @pytest.mark.parametrize("n", COUNTS)
    @pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 33, 63, 64])
    def test_planes_agree_with_the_twin_and_come_back(self, path, n, count):
        x = rows(np.random.default_rng(n), n)
        found = ring.planes(x, count, path=path)
        assert found.shape == (count, ring.words(n))
        assert np.array_equal(found, twin.planes(x, count))
        back = ring.from_planes(found, n, path=path)
        assert np.array_equal(back, x & np.uint64(2**count - 1))
        assert np.array_equal(back, twin.from_planes(found, n))

    @settings(max_examples=30, deadline=None)
    @given(n=st.integers(0, 700), count=st.integers(1, 64), seed=st.integers(0, 2**32))
    def test_drawn_planes_agree_with_the_twin(self, path, n, count, seed):
        given_planes = rows(np.random.default_rng(seed), count, ring.words(n))
        x = ring.from_planes(given_planes, n, path=path)
        assert np.array_equal(x, twin.from_planes(given_planes, n))
        assert np.array_equal(ring.planes(x, count, path=path), twin.planes(x, count))

    @pytest.mark.parametrize("n", COUNTS)
    def test_single_planes_agree_with_the_twin(self, path, n):
        x = rows(np.random.default_rng(n), n)
        for bit in (0, 1, 31, 32, 62, 63):
            assert np.array_equal(ring.plane(x, bit, path=path), twin.plane(x, bit))

    def test_any_shape_and_a_given_output(self, path):
        x = rows(np.random.default_rng(9), 3, 5, 17)
        out = np.full((64, 4), TOP, np.uint64)
        assert ring.planes(x, out=out, path=path) is out
        assert np.array_equal(out, twin.planes(x))
        word = np.full(4, TOP, np.uint64)
        assert ring.plane(x, 63, out=word, path=path) is word
        assert np.array_equal(word, out[63])
        back = np.full(x.shape, TOP, np.uint64)
        assert ring.from_planes(out, x.size, out=back, path=path) is back
        assert np.array_equal(back, x)

    def test_nothing_is_written_behind_the_output(self, path):
        x = rows(np.random.default_rng(9), 130)
        space = np.full(64 * 3 + 8, 7, np.uint64)
        for count in range(1, 65):
            ring.planes(x, count, out=space[: 3 * count].reshape(count, 3), path=path)
            assert np.all(space[3 * count :] == 7)
            space[:] = 7
        bits = twin.planes(x)
        ring.from_planes(bits, 130, out=space[:130], path=path)
        ring.plane(x, 3, out=space[140:143], path=path)
        assert np.all(space[130:140] == 7)
        assert np.all(space[143:] == 7)

    def test_wrong_arguments_are_refused(self, path):
        x = np.zeros(100, np.uint64)
        for count in (0, 65):
            with pytest.raises(ValueError, match="1 to 64"):
                ring.planes(x, count, path=path)
            with pytest.raises(ValueError, match="1 to 64"):
                ring.from_planes(np.zeros((count, 2), np.uint64), 100, path=path)
        with pytest.raises(ValueError, match="0 to 63"):
            ring.plane(x, 64, path=path)
        with pytest.raises(ValueError, match="one word for 64"):
            ring.from_planes(np.zeros((3, 1), np.uint64), 100, path=path)
        with pytest.raises(ValueError, match="two dimensions"):
            ring.from_planes(np.zeros(2, np.uint64), 100, path=path)
        with pytest.raises(ValueError, match="100 elements"):
            ring.from_planes(np.zeros((2, 2), np.uint64), 100, out=np.zeros(99, np.uint64), path=path)
        with pytest.raises(ValueError, match="number of elements"):
            ring.planes(x, 3, out=np.zeros((3, 3), np.uint64), path=path)
        with pytest.raises(ValueError, match="overlap"):
            ring.plane(x, 0, out=x[:2], path=path)
        with pytest.raises(ValueError, match="contiguous"):
            ring.planes(np.zeros(200, np.uint64)[::2], path=path)
        for wrong in (np.zeros(100, np.int64), np.zeros(100, ">u8"), [1], b"12345678"):
            with pytest.raises(TypeError, match="array of uint64"):
                ring.planes(wrong, path=path)
            with pytest.raises(TypeError, match="array of uint64"):
                ring.plane(wrong, 1, path=path)


def test_memory_at_an_odd_address_is_refused():
    odd = np.frombuffer(bytes(8 * 9), np.uint8)[1 : 1 + 64].view(np.uint64)
    if odd.ctypes.data % 8 == 0:
        odd = np.frombuffer(bytes(8 * 9), np.uint8)[2 : 2 + 64].view(np.uint64)
    with pytest.raises(ValueError, match="multiple of 8"):
        ring.plane(odd, 0)
