// GF(2^255 - 19) in eight lanes: five limbs of radix 2^52, the top one of 47 bits.
//
// vpmadd52 reads the low 52 bits of its factors, so the low four limbs need no masks: after a carry whatever
// stands above bit 52 has been handed on already. The top limb has five bits to spare, so that a sum of
// products (Wide) is added to or subtracted from another before one common carry.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace veilsum::x25519::ifma {
namespace {

using V = __m512i;

#define INLINE inline __attribute__((always_inline))

INLINE V broadcast(uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
INLINE V zero() { return _mm512_setzero_si512(); }
INLINE V lo(V sum, V a, V b) { return _mm512_madd52lo_epu64(sum, a, b); }
INLINE V hi(V sum, V a, V b) { return _mm512_madd52hi_epu64(sum, a, b); }
INLINE V add(V a, V b) { return _mm512_add_epi64(a, b); }
template <int n> INLINE V shift(V a) { return _mm512_srli_epi64(a, n); }

constexpr uint64_t low52 = (uint64_t{1} << 52) - 1, low47 = (uint64_t{1} << 47) - 1;

// A factor: limbs 0..3 count modulo 2^52, limb 4 < 2^47 + 2^6.
struct Fe {
    V limb[5];
};

// A sum of products not carried yet: every limb < 2^58.
struct Wide {
    V limb[5];
};

// A multiple of p whose limbs are even and above those of every product (2^55.4): added to the minuend it
// keeps differences positive. Square starts with half of it where its sums are doubled.
constexpr uint64_t multiple_of_p[5] = {0x11fffffffffd9da, 0x11fffffffffffee, 0x11fffffffffffee,
                                       0x11fffffffffffee, 0x100ffffffffffee};

enum class Start { zero, minuend };

template <Start start> INLINE V initial(int limb, int divisor) {
    if constexpr (start == Start::zero) return zero();
    return broadcast(multiple_of_p[limb] / static_cast<uint64_t>(divisor));
}

// 2^260 = 608 modulo p: limbs 5..9 go back to 0..4. Limb 9 times 608 stays below 2^52 (limb 4 < 2^47 + 2^6).
INLINE Wide fold(V (&sum)[10]) {
    const V factor = broadcast(608);
    Wide r;
    for (int k = 0; k < 4; k++) sum[6 + k] = add(sum[6 + k], shift<52>(sum[5 + k]));
    for (int k = 0; k < 5; k++) r.limb[k] = lo(sum[k], sum[5 + k], factor);
    for (int k = 0; k < 4; k++) r.limb[k + 1] = hi(r.limb[k + 1], sum[5 + k], factor);
    return r;
}

template <Start start = Start::zero> INLINE Wide mul(const Fe &a, const Fe &b) {
    V sum[10];
    for (int k = 0; k < 5; k++) sum[k] = initial<start>(k, 1);
    for (int k = 5; k < 10; k++) sum[k] = zero();
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
#pragma GCC unroll 5
        for (int j = 0; j < 5; j++) sum[i + j] = lo(sum[i + j], a.limb[i], b.limb[j]);
#pragma GCC unroll 5
        for (int j = 0; j < 5; j++) sum[i + j + 1] = hi(sum[i + j + 1], a.limb[i], b.limb[j]);
    }
    return fold(sum);
}

template <Start start = Start::zero> INLINE Wide square(const Fe &a) {
    V sum[10];
    sum[0] = initial<start>(0, 1);
    for (int k = 1; k < 5; k++) sum[k] = initial<start>(k, 2);
    for (int k = 5; k < 10; k++) sum[k] = zero();
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
#pragma GCC unroll 5
        for (int j = i + 1; j < 5; j++) sum[i + j] = lo(sum[i + j], a.limb[i], a.limb[j]);
#pragma GCC unroll 5
        for (int j = i + 1; j < 5; j++) sum[i + j + 1] = hi(sum[i + j + 1], a.limb[i], a.limb[j]);
    }
    for (int k = 1; k < 9; k++) sum[k] = add(sum[k], sum[k]);
#pragma GCC unroll 5
    for (int i = 0; i < 5; i++) {
        sum[2 * i] = lo(sum[2 * i], a.limb[i], a.limb[i]);
        sum[2 * i + 1] = hi(sum[2 * i + 1], a.limb[i], a.limb[i]);
    }
    return fold(sum);
}

// sum + a * factor, factor < 2^40
INLINE Wide add_scaled(Wide sum, const Fe &a, uint64_t factor) {
    const V f = broadcast(factor);
    for (int k = 0; k < 5; k++) sum.limb[k] = lo(sum.limb[k], a.limb[k], f);
    for (int k = 0; k < 4; k++) sum.limb[k + 1] = hi(sum.limb[k + 1], a.limb[k], f);
    sum.limb[0] = lo(sum.limb[0], hi(zero(), a.limb[4], f), broadcast(608));
    return sum;
}

INLINE Wide operator+(const Wide &a, const Wide &b) {
    Wide r;
    for (int k = 0; k < 5; k++) r.limb[k] = add(a.limb[k], b.limb[k]);
    return r;
}

// a must have started as a minuend.
INLINE Wide operator-(const Wide &a, const Wide &b) {
    Wide r;
    for (int k = 0; k < 5; k++) r.limb[k] = _mm512_sub_epi64(a.limb[k], b.limb[k]);
    return r;
}

// The top first, because what leaves it comes in again at the bottom; limbs 0..3 keep their upper bits.
INLINE Fe carry(const Wide &a) {
    Fe r;
    r.limb[0] = lo(a.limb[0], shift<47>(a.limb[4]), broadcast(19));
    for (int k = 1; k < 4; k++) r.limb[k] = add(a.limb[k], shift<52>(r.limb[k - 1]));
    r.limb[4] = add(_mm512_and_si512(a.limb[4], broadcast(low47)), shift<52>(r.limb[3]));
    return r;
}

INLINE Fe constant(uint64_t small) { return {{broadcast(small), zero(), zero(), zero(), zero()}}; }

INLINE Wide widen(const Fe &a) {  // clean limbs that may be added
    Wide r;
    for (int k = 0; k < 4; k++) r.limb[k] = _mm512_and_si512(a.limb[k], broadcast(low52));
    r.limb[4] = a.limb[4];
    return r;
}

INLINE Fe select(__mmask8 second, const Fe &a, const Fe &b) {
    Fe r;
    for (int k = 0; k < 5; k++) r.limb[k] = _mm512_mask_blend_epi64(second, a.limb[k], b.limb[k]);
    return r;
}

INLINE void swap(__mmask8 really, Fe &a, Fe &b) {
    for (int k = 0; k < 5; k++) {
        const V x = a.limb[k], y = b.limb[k];
        a.limb[k] = _mm512_mask_blend_epi64(really, x, y);
        b.limb[k] = _mm512_mask_blend_epi64(really, y, x);
    }
}

// The one representative below p, every limb clean.
inline Fe canonical(const Fe &a) {
    Wide w = widen(carry(widen(a)));  // below 2^255: only a top limb from 2^47 on carries, and leaves a small one
    // q = 1 exactly when w >= p: then w + 19 reaches 2^255
    V q = shift<52>(add(w.limb[0], broadcast(19)));
    for (int k = 1; k < 4; k++) q = shift<52>(add(w.limb[k], q));
    q = shift<47>(add(w.limb[4], q));
    w.limb[0] = lo(w.limb[0], q, broadcast(19));
    for (int k = 0; k < 4; k++) w.limb[k + 1] = add(w.limb[k + 1], shift<52>(w.limb[k]));
    Fe r;
    for (int k = 0; k < 4; k++) r.limb[k] = _mm512_and_si512(w.limb[k], broadcast(low52));
    r.limb[4] = _mm512_and_si512(w.limb[4], broadcast(low47));
    return r;
}

inline __mmask8 is_zero(const Fe &a) {
    const Fe c = canonical(a);
    V any = c.limb[0];
    for (int k = 1; k < 5; k++) any = _mm512_or_si512(any, c.limb[k]);
    return _mm512_testn_epi64_mask(any, any);
}

// The same operation in `n` independent vectors, one after the other: a product alone waits for its own
// results most of the time, and the next vector's product fills the gaps.
template <typename T, int n> struct Ways {
    T way[n];
};

#define EACH _Pragma("GCC unroll 4") for (int i = 0; i < n; i++)

template <Start start = Start::zero, int n> INLINE Ways<Wide, n> mul(const Ways<Fe, n> &a, const Ways<Fe, n> &b) {
    Ways<Wide, n> r;
    EACH r.way[i] = mul<start>(a.way[i], b.way[i]);
    return r;
}

template <Start start = Start::zero, int n> INLINE Ways<Wide, n> square(const Ways<Fe, n> &a) {
    Ways<Wide, n> r;
    EACH r.way[i] = square<start>(a.way[i]);
    return r;
}

template <int n> INLINE Ways<Wide, n> add_scaled(const Ways<Wide, n> &sum, const Ways<Fe, n> &a, uint64_t factor) {
    Ways<Wide, n> r;
    EACH r.way[i] = add_scaled(sum.way[i], a.way[i], factor);
    return r;
}

template <int n> INLINE Ways<Wide, n> operator+(const Ways<Wide, n> &a, const Ways<Wide, n> &b) {
    Ways<Wide, n> r;
    EACH r.way[i] = a.way[i] + b.way[i];
    return r;
}

template <int n> INLINE Ways<Wide, n> operator-(const Ways<Wide, n> &a, const Ways<Wide, n> &b) {
    Ways<Wide, n> r;
    EACH r.way[i] = a.way[i] - b.way[i];
    return r;
}

template <int n> INLINE Ways<Fe, n> carry(const Ways<Wide, n> &a) {
    Ways<Fe, n> r;
    EACH r.way[i] = carry(a.way[i]);
    return r;
}

template <int n> INLINE Ways<Wide, n> widen(const Ways<Fe, n> &a) {
    Ways<Wide, n> r;
    EACH r.way[i] = widen(a.way[i]);
    return r;
}

template <int n> INLINE void swap(__mmask8 really, Ways<Fe, n> &a, Ways<Fe, n> &b) {
    EACH swap(really, a.way[i], b.way[i]);
}

template <typename T> inline T product(const T &a, const T &b) { return carry(mul(a, b)); }

template <typename T> inline T square_times(T a, int count) {
    for (int i = 0; i < count; i++) a = carry(square(a));
    return a;
}

// a^(2^250 - 1), from which both exponentiations below are a few steps away; `eleven` receives a^11.
template <typename T> inline T power_ladder(const T &a, T &eleven) {
    const T two = square_times(a, 1);
    const T nine = product(square_times(two, 2), a);
    eleven = product(nine, two);
    const T x5 = product(square_times(eleven, 1), nine);
    const T x10 = product(square_times(x5, 5), x5);
    const T x20 = product(square_times(x10, 10), x10);
    const T x40 = product(square_times(x20, 20), x20);
    const T x50 = product(square_times(x40, 10), x10);
    const T x100 = product(square_times(x50, 50), x50);
    const T x200 = product(square_times(x100, 100), x100);
    return product(square_times(x200, 50), x50);
}

// a^(p - 2); zero gives zero.
inline Fe invert(const Fe &a) {
    Fe eleven;
    const Fe x250 = power_ladder(a, eleven);
    return product(square_times(x250, 5), eleven);
}

// a^((p - 1) / 2) = a^(2^254 - 10): 1 for squares, p - 1 for the others, 0 for 0.
template <typename T> inline T character(const T &a) {
    T eleven;
    const T x250 = power_ladder(a, eleven);
    const T two = square_times(a, 1);
    return product(square_times(x250, 4), product(square_times(two, 1), two));
}

inline __mmask8 is_minus_one(const Fe &character) {  // of the three, only p - 1 has high bits
    return _mm512_test_epi64_mask(canonical(character).limb[4], broadcast(uint64_t{1} << 46));
}

}  // namespace
}  // namespace veilsum::x25519::ifma
