#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

#include "ring.h"

namespace veilsum::ring::amx {

#include "ring_limbs.h"

namespace {

// A word is eight limbs of eight bits. Of the 64 products of limbs those of places l + r < 8 count; products of one
// place are summed in one tile register, four places at a time: 0-3 are registers of sums, 4 is a limb of a,
// 5-7 are limbs of b.
struct Tile {
    static constexpr size_t rows = 16, columns = 16, step = 64, depth = 512, block = 256;
    static constexpr size_t limb_bytes = 1024, step_bytes = 8 * limb_bytes;
    // A place below 4 has at most four products a column of a, and must not wrap. From 4 on a sum counts modulo
    // 2^32 or less.
    static_assert(4 * 255 * 255 * depth < uint64_t{1} << 32);

    // panel: [depth / 64][limb][row][64 bytes]
    static void pack_a(const Matrix &a, size_t rows, size_t depth, uint64_t *panel) {
        for (size_t p = 0; p < depth; p += step, panel += step_bytes / 8) {
            const size_t some = depth - p < step ? depth - p : step;
            Matrix from{a.at(0, p), a.row, a.column};
            alignas(64) uint64_t turned[Tile::rows * step];
            if (a.row == 1) from = turn(from, rows, some, turned);
            for (size_t i = 0; i < Tile::rows; i++) {
                V x[8];
                for (size_t q = 0; q < step; q += 8) {
                    const bool inside = i < rows && q < some;
                    x[q / 8] = inside ? load_words(from.at(i, q), from.column, first_lanes(some - q)) : zero();
                }
                split_limbs(x);
                for (size_t l = 0; l < 8; l++) _mm512_store_si512(panel + l * limb_bytes / 8 + i * 8, x[l]);
            }
        }
    }

    // The same part of a transposed matrix, row by row: eight loads and a transposition for eight gathers.
    static Matrix turn(const Matrix &a, size_t rows, size_t depth, uint64_t *turned) {
        for (size_t i = 0; i < rows; i += 8)
            for (size_t p = 0; p < depth; p += 8) {
                V x[8];
                for (size_t q = 0; q < 8; q++)
                    x[q] = p + q < depth ? load_words(a.at(i, p + q), 1, first_lanes(rows - i)) : zero();
                transpose_words(x);
                for (size_t r = 0; r < 8; r++) _mm512_store_si512(turned + (i + r) * step + p, x[r]);
            }
        return {turned, step, 1};
    }

    static V zero() { return _mm512_setzero_si512(); }

    // panel: [depth / 64][limb][depth / 4 of 64][column][4 bytes]
    static void pack_b(const Matrix &b, size_t depth, size_t columns, uint64_t *panel) {
        for (size_t p = 0; p < depth; p += step, panel += step_bytes / 8)
            for (size_t r = 0; r < step; r += 4)
                for (size_t half = 0; half < 2; half++) {
                    const size_t j = 8 * half;
                    const __mmask8 mask = first_lanes(columns > j ? columns - j : 0);
                    V x[4];
                    for (size_t q = 0; q < 4; q++) {
                        const bool inside = p + r + q < depth && mask;
                        x[q] = inside ? load_words(b.at(p + r + q, j), b.column, mask) : zero();
                    }
                    pack_four(x, reinterpret_cast<uint8_t *>(panel) + r * 16 + half * 32);
                }
    }

    // Four rows of eight words: limb l of column j goes to limb_bytes * l + 4 * j, one byte for each row.
    static void pack_four(const V (&x)[4], uint8_t *to) {
        const V even01 = _mm512_unpacklo_epi8(x[0], x[1]), odd01 = _mm512_unpackhi_epi8(x[0], x[1]);
        const V even23 = _mm512_unpacklo_epi8(x[2], x[3]), odd23 = _mm512_unpackhi_epi8(x[2], x[3]);
        const V even[2] = {_mm512_unpacklo_epi16(even01, even23), _mm512_unpackhi_epi16(even01, even23)};
        const V odd[2] = {_mm512_unpacklo_epi16(odd01, odd23), _mm512_unpackhi_epi16(odd01, odd23)};
        const V first = _mm512_set_epi32(29, 13, 25, 9, 21, 5, 17, 1, 28, 12, 24, 8, 20, 4, 16, 0);
        const V second = _mm512_add_epi32(first, _mm512_set1_epi32(2));
        for (int high = 0; high < 2; high++) {
            const V limbs[2] = {_mm512_permutex2var_epi32(even[high], first, odd[high]),
                                _mm512_permutex2var_epi32(even[high], second, odd[high])};
            for (int pair = 0; pair < 2; pair++) {
                uint8_t *place = to + (4 * high + 2 * pair) * limb_bytes;
                _mm256_store_si256(reinterpret_cast<__m256i *>(place), _mm512_castsi512_si256(limbs[pair]));
                _mm256_store_si256(reinterpret_cast<__m256i *>(place + limb_bytes),
                                   _mm512_extracti64x4_epi64(limbs[pair], 1));
            }
        }
    }

    static void multiply(const uint64_t *a, const uint64_t *b, size_t depth, size_t, uint64_t *sums) {
        // g++'s tile loads do not say that they read memory: the panels must be written by now
        __asm__ volatile("" : : : "memory");
        alignas(64) uint32_t place[8][rows * columns];
        sum_high(reinterpret_cast<const uint8_t *>(a), reinterpret_cast<const uint8_t *>(b), depth, place);
        sum_low(reinterpret_cast<const uint8_t *>(a), reinterpret_cast<const uint8_t *>(b), depth, place);
        for (size_t i = 0; i < rows * columns; i += 8) {
            V low = widen(place[0] + i), high = widen(place[4] + i);
            for (int s = 1; s < 4; s++) {
                low = _mm512_add_epi64(low, _mm512_slli_epi64(widen(place[s] + i), 8 * s));
                high = _mm512_add_epi64(high, _mm512_slli_epi64(widen(place[4 + s] + i), 8 * s));
            }
            _mm512_store_si512(sums + i, _mm512_add_epi64(low, _mm512_slli_epi64(high, 32)));
        }
    }

    static V widen(const uint32_t *p) {
        return _mm512_cvtepu32_epi64(_mm256_load_si256(reinterpret_cast<const __m256i *>(p)));
    }

    // Registers of tiles are named by constants: macros, not loops.
#define TAKE_A(limb) _tile_loadd(4, a + limb * limb_bytes, 64);
#define TIMES_B(limb, sum, via)                  \
    _tile_loadd(via, b + limb * limb_bytes, 64); \
    _tile_dpbuud(sum, 4, via);
#define CLEAR_SUMS \
    _tile_zero(0); \
    _tile_zero(1); \
    _tile_zero(2); \
    _tile_zero(3);
#define STORE_SUMS(to)          \
    _tile_stored(0, to[0], 64); \
    _tile_stored(1, to[1], 64); \
    _tile_stored(2, to[2], 64); \
    _tile_stored(3, to[3], 64);

    // Places 4 to 7, in the registers 0 to 3.
    static void sum_high(const uint8_t *a, const uint8_t *b, size_t depth, uint32_t (*place)[rows * columns]) {
        CLEAR_SUMS
        for (size_t p = 0; p < depth; p += step, a += step_bytes, b += step_bytes) {
            TAKE_A(0) TIMES_B(4, 0, 5) TIMES_B(5, 1, 6) TIMES_B(6, 2, 7) TIMES_B(7, 3, 5)
            TAKE_A(1) TIMES_B(3, 0, 6) TIMES_B(4, 1, 7) TIMES_B(5, 2, 5) TIMES_B(6, 3, 6)
            TAKE_A(2) TIMES_B(2, 0, 7) TIMES_B(3, 1, 5) TIMES_B(4, 2, 6) TIMES_B(5, 3, 7)
            TAKE_A(3) TIMES_B(1, 0, 5) TIMES_B(2, 1, 6) TIMES_B(3, 2, 7) TIMES_B(4, 3, 5)
            TAKE_A(4) TIMES_B(0, 0, 6) TIMES_B(1, 1, 7) TIMES_B(2, 2, 5) TIMES_B(3, 3, 6)
            TAKE_A(5) TIMES_B(0, 1, 7) TIMES_B(1, 2, 5) TIMES_B(2, 3, 6)
            TAKE_A(6) TIMES_B(0, 2, 7) TIMES_B(1, 3, 5)
            TAKE_A(7) TIMES_B(0, 3, 6)
        }
        uint32_t (*high)[rows * columns] = place + 4;
        STORE_SUMS(high)
    }

    // Places 0 to 3.
    static void sum_low(const uint8_t *a, const uint8_t *b, size_t depth, uint32_t (*place)[rows * columns]) {
        CLEAR_SUMS
        for (size_t p = 0; p < depth; p += step, a += step_bytes, b += step_bytes) {
            TAKE_A(0) TIMES_B(0, 0, 5) TIMES_B(1, 1, 6) TIMES_B(2, 2, 7) TIMES_B(3, 3, 5)
            TAKE_A(1) TIMES_B(0, 1, 6) TIMES_B(1, 2, 7) TIMES_B(2, 3, 5)
            TAKE_A(2) TIMES_B(0, 2, 6) TIMES_B(1, 3, 7)
            TAKE_A(3) TIMES_B(0, 3, 5)
        }
        STORE_SUMS(place)
    }

#undef TAKE_A
#undef TIMES_B
#undef CLEAR_SUMS
#undef STORE_SUMS
};

}  // namespace

#include "ring_gemm.h"

namespace {

// The layout of the operand of LDTILECFG: eight registers of 16 rows of 64 bytes.
struct alignas(64) Configuration {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(Configuration) == 64);

// Tiles do four times as much at once, but pad more.
bool worth_tiles(const Sizes &sizes) {
    const auto [n, k, m] = sizes;
    const size_t products = n * k * m, with_padding = padded(n, 16) * padded(k, 64) * padded(m, 16);
    return products >= 20'000 && 2 * with_padding <= 7 * products;
}

bool matmul(const Matrix &a, const Matrix &b, const Sizes &sizes, bool accumulate, uint64_t *out) {
    if (!worth_tiles(sizes)) return avx512::kernels.matmul(a, b, sizes, accumulate, out);
    static constexpr Configuration configuration;  // not on the stack: g++ may drop what it thinks is not read
    _tile_loadconfig(&configuration);
    const bool done = multiply_blocks(a, b, sizes, accumulate, out);
    _tile_release();
    return done;
}

}  // namespace

const Kernels kernels = {matmul, &avx512::steps};

}  // namespace veilsum::ring::amx
