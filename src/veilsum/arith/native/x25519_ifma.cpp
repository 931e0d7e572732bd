#include <string.h>

#include "x25519.h"
#include "x25519_ifma_field.h"

namespace veilsum::x25519::ifma {

namespace {

constexpr size_t lanes = 8;
constexpr size_t groups = 64;  // so many groups of eight lanes share one inversion (Montgomery's trick)

// Word i of every lane, rows `stride` bytes apart.
INLINE V gather(const uint8_t *rows, size_t stride, int word) {
    const long long s = static_cast<long long>(stride);
    const V at = _mm512_set_epi64(7 * s, 6 * s, 5 * s, 4 * s, 3 * s, 2 * s, s, 0);
    return _mm512_i64gather_epi64(at, rows + 8 * word, 1);
}

// The bits from `from` on of the number (high || low) of two 64-bit words; callers mask.
template <int from> INLINE V bits(V low, V high) {
    return _mm512_or_si512(_mm512_srli_epi64(low, from), _mm512_slli_epi64(high, 64 - from));
}

INLINE Fe limbs(V w0, V w1, V w2, V w3) {
    const V m = broadcast(low52);
    return {{_mm512_and_si512(w0, m), _mm512_and_si512(bits<52>(w0, w1), m), _mm512_and_si512(bits<40>(w1, w2), m),
             _mm512_and_si512(bits<28>(w2, w3), m), _mm512_and_si512(_mm512_srli_epi64(w3, 16), broadcast(low47))}};
}

// Eight rows of 32 bytes, little-endian; bit 255 is ignored (RFC 7748) and values from p on are allowed.
Fe load(const uint8_t *rows) {
    return limbs(gather(rows, 32, 0), gather(rows, 32, 1), gather(rows, 32, 2), gather(rows, 32, 3));
}

void store(const Fe &a, uint8_t *rows) {
    const Fe c = canonical(a);
    alignas(64) uint64_t words[4][lanes];
    const V *l = c.limb;
    _mm512_store_si512(words[0], _mm512_or_si512(l[0], _mm512_slli_epi64(l[1], 52)));
    _mm512_store_si512(words[1], _mm512_or_si512(_mm512_srli_epi64(l[1], 12), _mm512_slli_epi64(l[2], 40)));
    _mm512_store_si512(words[2], _mm512_or_si512(_mm512_srli_epi64(l[2], 24), _mm512_slli_epi64(l[3], 28)));
    _mm512_store_si512(words[3], _mm512_or_si512(_mm512_srli_epi64(l[3], 36), _mm512_slli_epi64(l[4], 16)));
    for (size_t lane = 0; lane < lanes; lane++) {
        const uint64_t row[4] = {words[0][lane], words[1][lane], words[2][lane], words[3][lane]};
        memcpy(rows + 32 * lane, row, 32);
    }
}

struct Fraction {
    Fe numerator, denominator;
};

// numerators / denominators of `used` groups; 0 where the denominator is 0, as a^(p - 2) would have it.
void divide(const Fraction *fractions, size_t used, uint8_t *rows) {
    Fe before[groups], product_so_far = constant(1);
    __mmask8 zeros[groups];
    for (size_t g = 0; g < used; g++) {
        zeros[g] = is_zero(fractions[g].denominator);
        before[g] = product_so_far;
        product_so_far = product(product_so_far, select(zeros[g], fractions[g].denominator, constant(1)));
    }
    Fe inverse = invert(product_so_far);
    for (size_t g = used; g-- > 0;) {
        const Fe quotient = product(fractions[g].numerator, product(inverse, before[g]));
        inverse = product(inverse, select(zeros[g], fractions[g].denominator, constant(1)));
        store(select(zeros[g], quotient, constant(0)), rows + 32 * lanes * g);
    }
}

constexpr int ways = 2;  // vectors worked on together; more would not find room in the registers
using Fes = Ways<Fe, ways>;
using Wides = Ways<Wide, ways>;

INLINE Fes same(const Fe &a) { return {{a, a}}; }

// A point as the ladder keeps it between steps: sum = x + z and difference = x - z, since only these need a
// carry and since they are what the next step works on.
struct Point {
    Fes sum, difference;
};

INLINE Point point(const Wides &x_minuend, const Wides &z) { return {carry(x_minuend + z), carry(x_minuend - z)}; }

// x and z of 2P; x has started as a minuend.
struct Projective {
    Wides x, z;
};

INLINE Projective twice(const Point &p) {
    const Wides aa = square<Start::minuend>(p.sum), bb = square(p.difference);
    const Fes e = carry(aa - bb);
    return {mul<Start::minuend>(carry(aa), carry(bb)), mul(e, carry(add_scaled(aa, e, a24)))};
}

INLINE void swap(__mmask8 really, Point &a, Point &b) {
    swap(really, a.sum, b.sum);
    swap(really, a.difference, b.difference);
}

// (nP, (n+1)P) to (2nP, (2n+1)P), where x1 = x(P). The order is the processor's: each line has enough
// products that do not wait for one another.
INLINE void step(Point &low, Point &high, const Fes &x1) {
    const Wides da = mul<Start::minuend>(high.difference, low.sum), cb = mul(high.sum, low.difference);
    const Fes plus = carry(da + cb), minus = carry(da - cb);
    const Wides aa = square<Start::minuend>(low.sum), bb = square(low.difference);
    const Fes e = carry(aa - bb);
    const Wides x3 = square<Start::minuend>(plus);
    const Fes minus_squared = carry(square(minus)), f = carry(add_scaled(aa, e, a24));
    const Wides x2 = mul<Start::minuend>(carry(aa), carry(bb)), z2 = mul(e, f), z3 = mul(x1, minus_squared);
    low = point(x2, z2);
    high = point(x3, z3);
}

// The Montgomery ladder (RFC 7748, section 5) for a clamped scalar: bit 254 is 1 and bits 2, 1, 0 are 0, so
// that it starts at (P, 2P) and ends with three doublings. A point of order 1, 2, 4 or 8 gives z = 0.
void ladder(const uint8_t *scalar, const Fes &x1, Fraction *out) {
    Wides minuend;
    for (Wide &w : minuend.way)
        for (int k = 0; k < 5; k++) w.limb[k] = initial<Start::minuend>(k, 1);
    Point low = point(minuend + widen(x1), widen(same(constant(1))));
    Projective p = twice(low);
    Point high = point(p.x, p.z);
    unsigned previous = 0;
    for (int t = 253; t >= 3; t--) {
        const unsigned bit = scalar[t / 8] >> (t % 8) & 1u;
        swap(static_cast<__mmask8>(0u - (bit ^ previous)), low, high);
        previous = bit;
        step(low, high, x1);
    }
    swap(static_cast<__mmask8>(0u - previous), low, high);
    for (int t = 2; t >= 0; t--) {
        p = twice(low);
        low = point(p.x, p.z);
    }
    const Fes x = carry(p.x), z = carry(p.z);
    for (int i = 0; i < ways; i++) out[i] = {x.way[i], z.way[i]};
}

// How many groups hold `rows` rows: a multiple of `ways`.
size_t groups_for(size_t rows) { return (rows + lanes * ways - 1) / (lanes * ways) * ways; }

void mul(const uint8_t *scalar, const uint8_t *points, size_t count, uint8_t *out) {
    uint8_t clamped[32];
    memcpy(clamped, scalar, 32);
    clamped[0] &= 248;
    clamped[31] = static_cast<uint8_t>((clamped[31] & 127) | 64);

    Fraction fractions[groups];
    alignas(64) uint8_t rows[groups * lanes * 32];
    for (size_t start = 0; start < count; start += groups * lanes) {
        const size_t here = count - start < groups * lanes ? count - start : groups * lanes;
        const size_t used = groups_for(here);
        memset(rows, 0, used * lanes * 32);
        memcpy(rows, points + 32 * start, 32 * here);
        for (size_t g = 0; g < used; g += ways) {
            const uint8_t *at = rows + 32 * lanes * g;
            ladder(clamped, {{load(at), load(at + 32 * lanes)}}, fractions + g);
        }
        divide(fractions, used, rows);
        memcpy(out + 32 * start, rows, 32 * here);
    }
}

// Eight rows of 48 big-endian bytes modulo p.
Fe load_uniform(const uint8_t *rows) {
    const V order = _mm512_broadcast_i32x4(_mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    V w[6];  // least significant first
    for (int i = 0; i < 6; i++) w[5 - i] = _mm512_shuffle_epi8(gather(rows, 48, i), order);
    // bits 255.. of the number: 129 of them
    const V m = broadcast(low52);
    const Fe high = {{_mm512_and_si512(bits<63>(w[3], w[4]), m), _mm512_and_si512(bits<51>(w[4], w[5]), m),
                      _mm512_srli_epi64(w[5], 39), zero(), zero()}};
    return carry(add_scaled(widen(limbs(w[0], w[1], w[2], w[3])), high, 19));
}

// Elligator 2 with Z = 2 (RFC 9380, section 6.7.1), u-coordinate only: x1 = -A/d with d = 1 + t and t = 2u^2
// (never 0: -1/2 is no square); x2 = -A t / d. x1 is right when g(x1) = -A d (d^2 - A^2 t) / d^4 is a square;
// as -1 is a square and A is not, that is when d (d^2 - A^2 t) is none.
void elligator2(const Fes &u, Fraction *out) {
    const Fe minus_a = {{broadcast(low52 - 18 - curve_a), broadcast(low52), broadcast(low52), broadcast(low52),
                         broadcast(low47)}};
    const Wides none = widen(same(constant(0)));
    const Fes t = carry(add_scaled(none, carry(square(u)), 2));
    const Fes d = carry(widen(t) + widen(same(constant(1))));
    const Fes w = carry(square<Start::minuend>(d) - add_scaled(none, t, curve_a * curve_a));
    const Fes chi = character(product(d, w)), other = product(same(minus_a), t);
    for (int i = 0; i < ways; i++)
        out[i] = {select(is_minus_one(chi.way[i]), other.way[i], minus_a), d.way[i]};
}

void map(const uint8_t *uniform, size_t count, uint8_t *out) {
    Fraction fractions[groups];
    alignas(64) uint8_t in[groups * lanes * 48], rows[groups * lanes * 32];
    for (size_t start = 0; start < count; start += groups * lanes) {
        const size_t here = count - start < groups * lanes ? count - start : groups * lanes;
        const size_t used = groups_for(here);
        memset(in, 0, used * lanes * 48);
        memcpy(in, uniform + 48 * start, 48 * here);
        for (size_t g = 0; g < used; g += ways) {
            const uint8_t *at = in + 48 * lanes * g;
            elligator2({{load_uniform(at), load_uniform(at + 48 * lanes)}}, fractions + g);
        }
        divide(fractions, used, rows);
        memcpy(out + 32 * start, rows, 32 * here);
    }
}

}  // namespace

const Kernels kernels = {mul, map};

}  // namespace veilsum::x25519::ifma
