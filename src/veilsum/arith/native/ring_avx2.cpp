#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

#include "ring.h"

namespace veilsum::ring::avx2 {

#include "ring_transpose.h"
#include "ring_steps.h"

namespace {

using V = __m256i;

inline V load(const uint64_t *p) { return _mm256_loadu_si256(reinterpret_cast<const V *>(p)); }
inline void store(uint64_t *p, V v) { _mm256_storeu_si256(reinterpret_cast<V *>(p), v); }

struct Tile {
    static constexpr size_t rows = 6, columns = 4, step = 1, depth = 256, block = 256;

    static void pack_a(const Matrix &a, size_t rows, size_t depth, uint64_t *panel) {
        for (size_t p = 0; p < depth; p++)
            for (size_t i = 0; i < Tile::rows; i++) *panel++ = i < rows ? *a.at(i, p) : 0;
    }

    static void pack_b(const Matrix &b, size_t depth, size_t columns, uint64_t *panel) {
        for (size_t p = 0; p < depth; p++)
            for (size_t j = 0; j < Tile::columns; j++) *panel++ = j < columns ? *b.at(p, j) : 0;
    }

    // With a = a0 + 2^32 a1: vpmuludq gives a0 b0; vpmulld by the swapped halves of b gives a0 b1 and a1 b0
    // modulo 2^32, which are summed apart in 32-bit lanes and meet at the end.
    static void multiply(const uint64_t *a, const uint64_t *b, size_t depth, size_t, uint64_t *sums) {
        V low[rows], cross[rows];
        for (size_t i = 0; i < rows; i++) low[i] = cross[i] = _mm256_setzero_si256();
        for (size_t p = 0; p < depth; p++, a += rows, b += columns) {
            const V row = load(b), swapped = _mm256_shuffle_epi32(row, 0xb1);
#pragma GCC unroll 6
            for (size_t i = 0; i < rows; i++) {
                const V x = _mm256_set1_epi64x(static_cast<long long>(a[i]));
                low[i] = _mm256_add_epi64(low[i], _mm256_mul_epu32(x, row));
                cross[i] = _mm256_add_epi32(cross[i], _mm256_mullo_epi32(x, swapped));
            }
        }
        for (size_t i = 0; i < rows; i++) {
            const V both = _mm256_add_epi32(cross[i], _mm256_shuffle_epi32(cross[i], 0xb1));
            store(sums + i * columns, _mm256_add_epi64(low[i], _mm256_slli_epi64(both, 32)));
        }
    }
};

}  // namespace

#include "ring_gemm.h"

const Kernels kernels = {multiply_blocks, &steps};

}  // namespace veilsum::ring::avx2
