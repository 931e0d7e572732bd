// Curve25519 by u-coordinates: the X25519 function (RFC 7748) and the Elligator 2 map (RFC 9380).
#pragma once
#include <cstddef>
#include <cstdint>

namespace veilsum::x25519 {

struct Kernels {
    // points, out: (count, 32), may be the same array; absent (null) where a library does it better
    void (*mul)(const uint8_t *scalar, const uint8_t *points, size_t count, uint8_t *out);
    // uniform: (count, 48) big-endian integers; out: (count, 32) u-coordinates before cofactor clearing
    void (*map)(const uint8_t *uniform, size_t count, uint8_t *out);
};

inline constexpr uint64_t curve_a = 486662;      // the curve is v^2 = u^3 + A u^2 + u
inline constexpr uint64_t a24 = 121665;          // (A - 2) / 4

namespace portable {
extern const Kernels kernels;
}
namespace ifma {
extern const Kernels kernels;
}

}  // namespace veilsum::x25519
