#include <stdlib.h>
#include <string.h>

#include "ring.h"

namespace veilsum::ring::portable {

#include "ring_transpose.h"
#include "ring_steps.h"

namespace {

struct Tile {
    static constexpr size_t rows = 4, columns = 4, step = 1, depth = 256, block = 256;

    static void pack_a(const Matrix &a, size_t rows, size_t depth, uint64_t *panel) {
        for (size_t p = 0; p < depth; p++)
            for (size_t i = 0; i < Tile::rows; i++) *panel++ = i < rows ? *a.at(i, p) : 0;
    }

    static void pack_b(const Matrix &b, size_t depth, size_t columns, uint64_t *panel) {
        for (size_t p = 0; p < depth; p++)
            for (size_t j = 0; j < Tile::columns; j++) *panel++ = j < columns ? *b.at(p, j) : 0;
    }

    static void multiply(const uint64_t *a, const uint64_t *b, size_t depth, size_t, uint64_t *sums) {
        uint64_t sum[rows][columns] = {};
        for (size_t p = 0; p < depth; p++, a += rows, b += columns)
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < columns; j++) sum[i][j] += a[i] * b[j];
        memcpy(sums, sum, sizeof sum);
    }
};

}  // namespace

#include "ring_gemm.h"

const Kernels kernels = {multiply_blocks, &steps};

}  // namespace veilsum::ring::portable
