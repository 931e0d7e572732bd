// Arithmetic modulo 2^64 on secret shares: matrix products, bit planes and the local steps of protocols.
// No kernel takes a branch or an address from the values of its words.
#pragma once
#include <cstddef>
#include <cstdint>

namespace veilsum::ring {

// Element (i, j) is data[i * row + j * column]; both strides are in words and not negative.
struct Matrix {
    const uint64_t *data;
    size_t row, column;

    const uint64_t *at(size_t i, size_t j) const { return data + i * row + j * column; }
};

// (n, k) times (k, m)
struct Sizes {
    size_t n, k, m;
};

// A bit plane holds bit j of word w for element 64 w + j; bits beyond the last element are zero.
inline constexpr size_t word_bits = 64;
inline constexpr size_t words(size_t elements) { return elements / word_bits + (elements % word_bits != 0); }

// What a party of a truncation holds; own, other and triple are bit planes.
struct Truncation {
    const uint64_t *share, *own, *other, *triple, *product, *mask;
    size_t fraction;  // 1 to 62
    bool lead;
};

// Every step takes n elements (words, in `conjunction` and `majority`). An output may be one of the inputs,
// but must not overlap one otherwise.
struct Steps {
    void (*product)(size_t n, const uint64_t *x0, const uint64_t *x1, const uint64_t *y0, const uint64_t *y1,
                    uint64_t *out);
    void (*add_masks)(size_t n, const uint64_t *x, const uint64_t *plus, const uint64_t *minus, uint64_t *out);
    // out: (count, words(n)), count <= 64
    void (*planes)(size_t n, const uint64_t *x, size_t count, uint64_t *out);
    void (*plane)(size_t n, const uint64_t *x, size_t bit, uint64_t *out);
    void (*from_planes)(size_t n, const uint64_t *planes, size_t count, uint64_t *out);
    void (*conjunction)(size_t n, const uint64_t *xa, const uint64_t *xb, const uint64_t *ya, const uint64_t *yb,
                        const uint64_t *plus, const uint64_t *minus, uint64_t *out);
    void (*majority)(size_t n, const uint64_t *ua, const uint64_t *ub, const uint64_t *va, const uint64_t *vb,
                     const uint64_t *ca, const uint64_t *cb, const uint64_t *plus, const uint64_t *minus,
                     uint64_t *out);
    void (*truncate_share)(size_t n, const Truncation &truncation, uint64_t *out);
    void (*select_deal)(size_t n, const uint64_t *u, const uint64_t *bits, const uint64_t *w0, const uint64_t *c0,
                        const uint64_t *plus, const uint64_t *minus, uint64_t *w1, uint64_t *c1, uint64_t *z);
    void (*select_take)(size_t n, const uint64_t *v, const uint64_t *bits, const uint64_t *w, const uint64_t *c,
                        bool lead, const uint64_t *plus, const uint64_t *minus, uint64_t *out);
};

struct Kernels {
    // out: (n, m), rows end to end, apart from a and b; false: no memory for the panels
    bool (*matmul)(const Matrix &a, const Matrix &b, const Sizes &sizes, bool accumulate, uint64_t *out);
    const Steps *steps;
};

namespace portable {
extern const Steps steps;
extern const Kernels kernels;
}
namespace avx2 {
extern const Steps steps;
extern const Kernels kernels;
}
namespace avx512 {
extern const Steps steps;
extern const Kernels kernels;
}
namespace amx {
extern const Kernels kernels;  // with the steps of avx512
}

}  // namespace veilsum::ring
