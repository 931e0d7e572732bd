// Numbers modulo an odd n in eight lanes: limbs of radix 2^52, R = 2^(52 limbs), a few bits above n's own.
//
// Multiplication is "almost Montgomery": a b / R + less than n, never brought below n on the way. With
// a b < 2^-8 R n, which the spare bits of R grant for all values here, that is below 2 n.
// A number is `tiles` times `width` limbs: the sums of one row of products of a tile stay in registers.
#pragma once
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace veilsum::modexp::ifma {
namespace {

using V = __m512i;

#define INLINE inline __attribute__((always_inline))
#define APART __attribute__((noinline))
#define UNROLL _Pragma("GCC unroll 64")

INLINE V broadcast(uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
INLINE V zero() { return _mm512_setzero_si512(); }
INLINE V lo(V sum, V a, V b) { return _mm512_madd52lo_epu64(sum, a, b); }
INLINE V hi(V sum, V a, V b) { return _mm512_madd52hi_epu64(sum, a, b); }
INLINE V add(V a, V b) { return _mm512_add_epi64(a, b); }
INLINE V sub(V a, V b) { return _mm512_sub_epi64(a, b); }

// Reads a limb once for two uses: the compiler would rather read twice, and reads are as scarce as products.
INLINE V once(const V &limb) {
    V x = limb;
    __asm__("" : "+v"(x));
    return x;
}

constexpr size_t lanes = 8;
constexpr int radix = 52;
constexpr uint64_t low52 = (uint64_t{1} << radix) - 1;

// Static members of class templates, not function templates: their symbols begin with the namespace.
// fresh: what was in the sum before does not count.
template <int width, bool fresh = false> struct Tile {
    static constexpr int step = 5;  // rows a round: the sums move down one register a row, by renaming within a round
    static_assert(width % step == 0);

    // sum[0 .. rows + width) += left[0 .. width) right[0 .. rows)
    static APART void multiply(V *sum, const V *left, const V *right, int rows) {
        V acc[width + 1];
        UNROLL for (int j = 0; j < width; j++) acc[j] = fresh ? zero() : sum[j];
        for (int i = 0; i < rows; i += step) {
            UNROLL for (int k = i; k < i + step; k++) {
                const V r = right[k];
                acc[width] = fresh ? zero() : sum[k + width];
                UNROLL for (int j = 0; j < width; j++) {
                    const V l = left[j];
                    acc[j] = lo(acc[j], l, r);
                    acc[j + 1] = hi(acc[j + 1], l, r);
                }
                sum[k] = acc[0];
                UNROLL for (int j = 0; j < width; j++) acc[j] = acc[j + 1];
            }
        }
        UNROLL for (int j = 0; j < width; j++) sum[rows + j] = acc[j];
    }

    // sum[0 .. 2 width) = 2 sum + a^2: products of two different limbs are made once.
    static APART void square(V *sum, const V *a) {
        V acc[2 * width];
        UNROLL for (int k = 0; k < 2 * width; k++) acc[k] = fresh ? zero() : sum[k];
        acc[0] = add(acc[0], acc[0]);
        sum[0] = lo(acc[0], a[0], a[0]);
        UNROLL for (int i = 0; i < width; i++) {
            const V l = a[i];
            UNROLL for (int j = i + 1; j < width; j++) {
                const V r = a[j];
                acc[i + j] = lo(acc[i + j], l, r);
                acc[i + j + 1] = hi(acc[i + j + 1], l, r);
            }
            sum[2 * i + 1] = hi(add(acc[2 * i + 1], acc[2 * i + 1]), l, l);
            if (i + 1 < width) sum[2 * i + 2] = lo(add(acc[2 * i + 2], acc[2 * i + 2]), a[i + 1], a[i + 1]);
        }
    }

    // Makes the lowest `width` limbs of sum zero (not written) by adding factor[i] 2^(52 i) times n's lowest tile.
    static APART void reduce(V *sum, const V *n, V inverse, V *factor) {
        V acc[width + 1];
        UNROLL for (int j = 0; j < width; j++) acc[j] = sum[j];
        const V mask = broadcast(low52);
        for (int i = 0; i < width; i += step) {
            UNROLL for (int k = i; k < i + step; k++) {
                const V m = lo(zero(), acc[0], inverse);
                // acc[0] + lo(m n[0]) is a multiple of 2^52: that product need not be known to carry
                const V carry = _mm512_srli_epi64(add(acc[0], mask), radix);
                factor[k] = m;
                acc[width] = sum[k + width];
                // two sums, since the next factor waits for this limb
                const V second = once(n[1]);
                acc[0] = add(hi(acc[1], m, n[0]), lo(carry, m, second));
                acc[1] = hi(acc[2], m, second);
                UNROLL for (int j = 2; j < width; j++) {
                    const V l = once(n[j]);
                    acc[j - 1] = lo(acc[j - 1], m, l);
                    acc[j] = hi(acc[j + 1], m, l);
                }
            }
        }
        UNROLL for (int j = 0; j < width; j++) sum[width + j] = acc[j];
    }
};

// One modulus, the same in all lanes, and room to work in; wiped at the end, since it may have been secret.
template <int tiles, int width> struct Field {
    static constexpr int limbs = tiles * width;
    V n[limbs], inverse;  // n inverse = -1 modulo 2^52
    V sum[2 * limbs], factor[width];

    // The 52 bits of a number of little-endian words from 2^(52 i) on.
    static uint64_t bits(const uint8_t *words, size_t count, size_t i) {
        const size_t word = radix * i / 64, from = radix * i % 64;
        uint64_t low = 0, high = 0;
        if (word < count) memcpy(&low, words + 8 * word, 8);
        if (word + 1 < count) memcpy(&high, words + 8 * word + 8, 8);
        return static_cast<uint64_t>(((static_cast<unsigned __int128>(high) << 64) | low) >> from) & low52;
    }

    // The same number in every lane.
    static void spread(const uint8_t *words, size_t count, V *out) {
        for (size_t i = 0; i < limbs; i++) out[i] = broadcast(bits(words, count, i));
    }

    Field(const uint8_t *modulus, size_t words) {
        spread(modulus, words, n);
        const uint64_t n0 = bits(modulus, words, 0);
        uint64_t x = 1;  // Newton: the number of right bits doubles
        for (int i = 0; i < 6; i++) x *= 2 - n0 * x;
        inverse = broadcast((0 - x) & low52);
    }
    ~Field() {
        memset(static_cast<void *>(this), 0, sizeof *this);
        __asm__ volatile("" : : "r"(this) : "memory");
    }

    // out = sum / R, carried
    void reduce(V *out) {
        using T = Tile<width>;
        for (int b = 0; b < tiles; b++) {
            V *from = sum + b * width;
            T::reduce(from, n, inverse, factor);
            if (tiles > 1) T::multiply(from + width, factor, n + width, limbs - width);
        }
        carry(sum + limbs, out, limbs);
    }

    // Hands on what stands above 52 bits, as a signed number. It stays there, too: factors are read without it.
    static INLINE void carry(const V *from, V *out, int count) {
        V c = zero();
        UNROLL for (int i = 0; i < count; i++) {
            out[i] = add(from[i], c);
            c = _mm512_srai_epi64(out[i], radix);
        }
    }

    // Takes it away, before a number is added to others or stored.
    static INLINE void clean(V *number, int count) {
        for (int i = 0; i < count; i++) number[i] = _mm512_and_si512(number[i], broadcast(low52));
    }

    // sum[0 .. limbs + rows) = a b, limbs not carried; b has `rows` limbs
    static void multiply(V *sum, const V *a, const V *b, int rows) {
        Tile<width, true>::multiply(sum, a, b, rows);
        for (int t = 1; t < tiles; t++) {
            for (int j = 0; j < width; j++) sum[rows + t * width + j] = zero();
            Tile<width>::multiply(sum + t * width, a + t * width, b, rows);
        }
    }

    void mul(const V *a, const V *b, V *out) {
        multiply(sum, a, b, limbs);
        reduce(out);
    }

    void square(const V *a, V *out) {
        if constexpr (tiles == 1) {
            Tile<width, true>::square(sum, a);
        } else {
            using T = Tile<width>;
            for (int k = 0; k < 2 * limbs; k++) sum[k] = zero();
            for (int t = 0; t + 1 < tiles; t++)
                T::multiply(sum + (2 * t + 1) * width, a + t * width, a + (t + 1) * width, limbs - (t + 1) * width);
            for (int t = 0; t < tiles; t++) T::square(sum + 2 * t * width, a + t * width);
        }
        reduce(out);
    }

    // The residue below n of a < 2 n, clean; a was carried.
    void reduce_once(const V *a, V *out) const {
        V plain[limbs], difference[limbs], c = zero();
        const V mask = broadcast(low52);
        for (int i = 0; i < limbs; i++) {
            plain[i] = _mm512_and_si512(a[i], mask);
            const V x = add(sub(plain[i], n[i]), c);
            difference[i] = _mm512_and_si512(x, mask);
            c = _mm512_srai_epi64(x, radix);
        }
        for (int i = 0; i < limbs; i++)  // c: all ones where a < n
            out[i] = _mm512_ternarylogic_epi64(c, plain[i], difference[i], 0xca);
    }
};

// Eight big-endian rows <-> limbs, by way of rows padded to a whole number of words.
template <int limbs> struct Rows {
    static constexpr int words = (radix * limbs + 63) / 64 + 1;
    static constexpr long long stride = 8 * words;
    alignas(64) uint8_t padded[lanes * stride];

    static INLINE V offsets() {
        return _mm512_set_epi64(7 * stride, 6 * stride, 5 * stride, 4 * stride, 3 * stride, 2 * stride, stride, 0);
    }
    static INLINE V swapped(V x) {
        const V order = _mm512_broadcast_i32x4(_mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
        return _mm512_shuffle_epi8(x, order);
    }

    Rows() { memset(padded, 0, sizeof padded); }
    ~Rows() {
        memset(padded, 0, sizeof padded);
        __asm__ volatile("" : : "r"(padded) : "memory");
    }

    // Lanes from `count` on stay as they were.
    void load(const uint8_t *rows, size_t width, size_t count, V *out) {
        for (size_t i = 0; i < count; i++) memcpy(padded + stride * i + stride - width, rows + width * i, width);
        const V at = offsets(), mask = broadcast(low52);
        for (int i = 0; i < limbs; i++) {
            const int byte = radix * i / 8;
            const V x = swapped(_mm512_i64gather_epi64(at, padded + stride - 8 - byte, 1));
            out[i] = _mm512_and_si512(_mm512_srli_epi64(x, radix * i % 8), mask);
        }
    }

    void store(const V *number, uint8_t *rows, size_t width, size_t count) {
        const V at = offsets();
        for (int w = 0; w < words - 1; w++) {
            const int i = 64 * w / radix, from = 64 * w % radix;
            V x = _mm512_srli_epi64(number[i], from);
            if (i + 1 < limbs) x = _mm512_or_si512(x, _mm512_slli_epi64(number[i + 1], radix - from));
            if (i + 2 < limbs && 2 * radix - from < 64)
                x = _mm512_or_si512(x, _mm512_slli_epi64(number[i + 2], 2 * radix - from));
            _mm512_i64scatter_epi64(padded + stride - 8 * (w + 1), at, swapped(x), 1);
        }
        for (size_t i = 0; i < count; i++) memcpy(rows + width * i, padded + stride * i + stride - width, width);
    }
};

}  // namespace
}  // namespace veilsum::modexp::ifma
