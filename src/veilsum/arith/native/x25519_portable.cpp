#include <string.h>

#include "x25519.h"

namespace veilsum::x25519::portable {

namespace {

using u64 = uint64_t;
using u128 = unsigned __int128;

constexpr u64 mask = (u64{1} << 51) - 1;

// An element of GF(2^255 - 19): five limbs of 51 bits, each below 2^52 between operations.
struct Fe {
    u64 limb[5];
};

Fe carry(const u128 (&wide)[5]) {
    Fe r;
    u128 c = 0;
    for (int i = 0; i < 5; i++) {
        c += wide[i];
        r.limb[i] = static_cast<u64>(c) & mask;
        c >>= 51;
    }
    c = c * 19 + r.limb[0];
    r.limb[0] = static_cast<u64>(c) & mask;
    r.limb[1] += static_cast<u64>(c >> 51);
    return r;
}

Fe mul(const Fe &a, const Fe &b) {
    u128 wide[5] = {};
    for (int i = 0; i < 5; i++) {
        for (int j = 0; j < 5; j++) {
            const u64 factor = i + j < 5 ? b.limb[j] : 19 * b.limb[j];
            wide[(i + j) % 5] += static_cast<u128>(a.limb[i]) * factor;
        }
    }
    return carry(wide);
}

Fe mul_small(const Fe &a, u64 factor) {
    u128 wide[5];
    for (int i = 0; i < 5; i++) wide[i] = static_cast<u128>(a.limb[i]) * factor;
    return carry(wide);
}

Fe add(const Fe &a, const Fe &b) {
    u128 wide[5];
    for (int i = 0; i < 5; i++) wide[i] = static_cast<u128>(a.limb[i]) + b.limb[i];
    return carry(wide);
}

Fe negate(const Fe &a) {
    // 8p - a: every limb of 8p is above every limb of a
    u128 wide[5];
    for (int i = 0; i < 5; i++) wide[i] = 8 * (i == 0 ? mask - 18 : mask) - a.limb[i];
    return carry(wide);
}

Fe square_times(Fe a, int count) {
    for (int i = 0; i < count; i++) a = mul(a, a);
    return a;
}

// a^(2^250 - 1), from which both exponentiations below are a few steps away; `eleven` receives a^11.
Fe power_ladder(const Fe &a, Fe &eleven) {
    const Fe two = square_times(a, 1);
    const Fe nine = mul(square_times(two, 2), a);
    eleven = mul(nine, two);
    const Fe x5 = mul(square_times(eleven, 1), nine);
    const Fe x10 = mul(square_times(x5, 5), x5);
    const Fe x20 = mul(square_times(x10, 10), x10);
    const Fe x40 = mul(square_times(x20, 20), x20);
    const Fe x50 = mul(square_times(x40, 10), x10);
    const Fe x100 = mul(square_times(x50, 50), x50);
    const Fe x200 = mul(square_times(x100, 100), x100);
    return mul(square_times(x200, 50), x50);
}

// a^(p - 2); zero gives zero.
Fe invert(const Fe &a) {
    Fe eleven;
    const Fe x250 = power_ladder(a, eleven);
    return mul(square_times(x250, 5), eleven);
}

// a^((p - 1) / 2) = a^(2^254 - 10): 1 for squares, -1 for the others, 0 for 0.
Fe character(const Fe &a) {
    Fe eleven;
    const Fe x250 = power_ladder(a, eleven);
    const Fe two = square_times(a, 1);
    const Fe six = mul(square_times(two, 1), two);
    return mul(square_times(x250, 4), six);
}

// The canonical little-endian bytes.
void store(const Fe &a, uint8_t *out) {
    u128 wide[5];
    for (int i = 0; i < 5; i++) wide[i] = a.limb[i];
    Fe r = carry(wide);
    u64 q = (r.limb[0] + 19) >> 51;  // q = 1 exactly when r >= p
    for (int i = 1; i < 5; i++) q = (r.limb[i] + q) >> 51;
    u64 c = 19 * q;
    for (int i = 0; i < 5; i++) {
        c += r.limb[i];
        r.limb[i] = c & mask;
        c >>= 51;
    }
    const u64 words[4] = {r.limb[0] | r.limb[1] << 51, r.limb[1] >> 13 | r.limb[2] << 38,
                          r.limb[2] >> 26 | r.limb[3] << 25, r.limb[3] >> 39 | r.limb[4] << 12};
    for (int i = 0; i < 32; i++) out[i] = static_cast<uint8_t>(words[i / 8] >> (8 * (i % 8)));
}

// 48 big-endian bytes modulo p.
Fe load_uniform(const uint8_t *in) {
    u64 w[6];  // least significant first
    for (int i = 0; i < 6; i++) {
        w[5 - i] = 0;
        for (int j = 0; j < 8; j++) w[5 - i] = w[5 - i] << 8 | in[8 * i + j];
    }
    const u64 low[5] = {w[0] & mask, (w[0] >> 51 | w[1] << 13) & mask, (w[1] >> 38 | w[2] << 26) & mask,
                        (w[2] >> 25 | w[3] << 39) & mask, w[3] >> 12 & mask};
    const u64 high[5] = {(w[3] >> 63 | w[4] << 1) & mask, (w[4] >> 50 | w[5] << 14) & mask, w[5] >> 37, 0, 0};
    u128 wide[5];
    for (int i = 0; i < 5; i++) wide[i] = static_cast<u128>(high[i]) * 19 + low[i];
    return carry(wide);
}

// Elligator 2 with Z = 2 (RFC 9380, section 6.7.1), u-coordinate only: x1 = -A/d with d = 1 + 2u^2, which is
// never 0 because -1/2 is no square; x2 = -A - x1 = -A (2u^2) / d. x1 is right when g(x1) is a square, and
// g(n/d) = n (n^2 + A n d + d^2) / d^3 is one exactly when n (n^2 + A n d + d^2) d is.
struct Fraction {
    Fe numerator, denominator;
};

Fraction elligator2(const Fe &u) {
    const Fe one = {{1, 0, 0, 0, 0}};
    const Fe minus_a = negate({{curve_a, 0, 0, 0, 0}});
    const Fe t = mul_small(mul(u, u), 2);
    const Fe d = add(t, one);
    const Fe and_ = mul(mul_small(minus_a, curve_a), d);  // A n d with n = -A
    const Fe sum = add(add(mul(minus_a, minus_a), and_), mul(d, d));
    uint8_t chi[32];
    store(character(mul(mul(minus_a, sum), d)), chi);
    const u64 is_other = 0 - static_cast<u64>(chi[31] >> 6 & 1);  // p - 1 has bit 254 set; 0 and 1 have not
    const Fe other = mul(minus_a, t);
    Fraction r = {minus_a, d};
    for (int i = 0; i < 5; i++) r.numerator.limb[i] ^= is_other & (r.numerator.limb[i] ^ other.limb[i]);
    return r;
}

void map(const uint8_t *uniform, size_t count, uint8_t *out) {
    constexpr size_t batch = 64;  // one inversion for so many (Montgomery's trick; no denominator is 0)
    Fraction fractions[batch];
    Fe products[batch];
    for (size_t start = 0; start < count; start += batch) {
        const size_t n = count - start < batch ? count - start : batch;
        Fe product = {{1, 0, 0, 0, 0}};
        for (size_t i = 0; i < n; i++) {
            fractions[i] = elligator2(load_uniform(uniform + 48 * (start + i)));
            products[i] = product;
            product = mul(product, fractions[i].denominator);
        }
        Fe inverse = invert(product);
        for (size_t i = n; i-- > 0;) {
            store(mul(fractions[i].numerator, mul(inverse, products[i])), out + 32 * (start + i));
            inverse = mul(inverse, fractions[i].denominator);
        }
    }
}

}  // namespace

const Kernels kernels = {nullptr, map};

}  // namespace veilsum::x25519::portable
