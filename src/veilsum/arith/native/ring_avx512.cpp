#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

#include "ring.h"

namespace veilsum::ring::avx512 {

#include "ring_limbs.h"

namespace {

// A byte of 64 words in one register: its top bits are a word of a plane, then the next lower ones.
void transpose(const uint64_t *in, size_t count, uint64_t *out, size_t stride) {
    V limb[8];
    for (size_t i = 0; i < 8; i++) limb[i] = _mm512_loadu_si512(in + 8 * i);
    split_limbs(limb);
    for (size_t l = 0; 8 * l < count; l++)
#pragma GCC unroll 8
        for (size_t b = 8; b-- > 0;) {
            out[(8 * l + b) * stride] = _mm512_movepi8_mask(limb[l]);
            limb[l] = _mm512_add_epi8(limb[l], limb[l]);
        }
}

}  // namespace

#include "ring_steps.h"

namespace {

struct Tile {
    static constexpr size_t rows = 8, columns = 16, step = 1, depth = 256, block = 256;

    static void pack_a(const Matrix &a, size_t rows, size_t depth, uint64_t *panel) {
        const __mmask8 mask = first_lanes(rows);
        if (a.row == 1) {
            for (size_t p = 0; p < depth; p++)
                _mm512_store_si512(panel + p * Tile::rows, _mm512_maskz_loadu_epi64(mask, a.at(0, p)));
            return;
        }
        for (size_t p = 0; p < depth; p += 8) {
            V x[8];
            for (size_t i = 0; i < 8; i++)
                x[i] = i < rows ? load_words(a.at(i, p), a.column, first_lanes(depth - p)) : _mm512_setzero_si512();
            transpose_words(x);
            const size_t some = depth - p < 8 ? depth - p : 8;
            for (size_t i = 0; i < some; i++) _mm512_store_si512(panel + (p + i) * Tile::rows, x[i]);
        }
    }

    static void pack_b(const Matrix &b, size_t depth, size_t columns, uint64_t *panel) {
        const __mmask8 left = first_lanes(columns), right = first_lanes(columns > 8 ? columns - 8 : 0);
        for (size_t p = 0; p < depth; p++, panel += Tile::columns) {
            _mm512_store_si512(panel, load_words(b.at(p, 0), b.column, left));
            _mm512_store_si512(panel + 8, right ? load_words(b.at(p, 8), b.column, right) : _mm512_setzero_si512());
        }
    }

    template <size_t some> static void multiply_rows(const uint64_t *a, const uint64_t *b, size_t depth, uint64_t *sums) {
        V left[some], right[some];
        for (size_t i = 0; i < some; i++) left[i] = right[i] = _mm512_setzero_si512();
        for (size_t p = 0; p < depth; p++, a += rows, b += columns) {
            const V b0 = _mm512_load_si512(b), b1 = _mm512_load_si512(b + 8);
#pragma GCC unroll 8
            for (size_t i = 0; i < some; i++) {
                const V x = _mm512_set1_epi64(static_cast<long long>(a[i]));
                left[i] = _mm512_add_epi64(left[i], _mm512_mullo_epi64(x, b0));
                right[i] = _mm512_add_epi64(right[i], _mm512_mullo_epi64(x, b1));
            }
        }
        for (size_t i = 0; i < some; i++) {
            _mm512_store_si512(sums + i * columns, left[i]);
            _mm512_store_si512(sums + i * columns + 8, right[i]);
        }
    }

    static void multiply(const uint64_t *a, const uint64_t *b, size_t depth, size_t rows, uint64_t *sums) {
        if (rows > 4) return multiply_rows<8>(a, b, depth, sums);
        if (rows > 2) return multiply_rows<4>(a, b, depth, sums);
        if (rows > 1) return multiply_rows<2>(a, b, depth, sums);
        return multiply_rows<1>(a, b, depth, sums);
    }
};

}  // namespace

#include "ring_gemm.h"

const Kernels kernels = {multiply_blocks, &steps};

}  // namespace veilsum::ring::avx512
