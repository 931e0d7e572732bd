// Powers and products modulo odd numbers: public ones with a small exponent, private ones by CRT (RSA).
//
// Rows are big-endian numbers of `width` bytes, below the modulus. Constants are little-endian 64-bit words;
// their Montgomery factor is 2^shift, which depends on path and size.
#pragma once
#include <cstddef>
#include <cstdint>

namespace veilsum::modexp {

inline constexpr size_t min_words = 4, max_words = 64, max_primes = 3;

// A public odd modulus of `words` words, its top word not zero, and 2^(2 shift) modulo it.
struct Modulus {
    const uint8_t *value, *square;
    size_t words, width;
};

// A secret key: for every prime p_i of `words` words, one after the other,
//   p_i, the exponent, 2^(shift j) mod p_i for j = 2 .. primes + 1, and Garner's two:
//   2^shift / (p_1 ... p_(i-1)) mod p_i (0 for the first), 2^shift p_1 mod p_i (used by the third).
struct Key {
    const uint8_t *words_of_primes;
    size_t primes, words, width;
};
constexpr size_t fields(size_t primes) { return 4 + primes; }

struct Kernels {
    // log2 of the Montgomery factor, 0 if this path has no kernel of that size; primes is 1 for a public modulus
    size_t (*shift)(size_t primes, size_t words);
    // rows, out: (count, width), may be the same array
    void (*power)(const Modulus &modulus, uint64_t exponent, const uint8_t *rows, size_t count, uint8_t *out);
    // b: (count, width), or one row for all
    void (*product)(const Modulus &modulus, const uint8_t *a, const uint8_t *b, bool one_b, size_t count,
                    uint8_t *out);
    void (*private_power)(const Key &key, const uint8_t *rows, size_t count, uint8_t *out);
};

// Whether every row is below the modulus; time depends on sizes only.
bool all_below(const Modulus &modulus, const uint8_t *rows, size_t count);

namespace portable {
extern const Kernels kernels;
}
namespace ifma {
extern const Kernels kernels;
}

}  // namespace veilsum::modexp
