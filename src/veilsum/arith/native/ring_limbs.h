// The bytes of words, sorted by their place, in AVX-512. Included inside the namespace of each path that uses it.

namespace {

using V = __m512i;

// Up to eight words at a distance of `stride` words; lanes outside of the mask are zero and not touched.
inline V load_words(const uint64_t *p, size_t stride, __mmask8 mask) {
    if (stride == 1) return _mm512_maskz_loadu_epi64(mask, p);
    const V lanes = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    const V places = _mm512_mullo_epi64(lanes, _mm512_set1_epi64(static_cast<long long>(stride)));
    return _mm512_mask_i64gather_epi64(_mm512_setzero_si512(), mask, places, p, 8);
}

inline __mmask8 first_lanes(size_t count) { return count >= 8 ? 0xff : static_cast<__mmask8>((1u << count) - 1); }

// Word l of the result holds byte l of the eight words.
inline V transpose_bytes(V x) {
    const V pairs = _mm512_broadcast_i32x4(_mm_set_epi8(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0));
    const V order = _mm512_set_epi16(31, 23, 15, 7, 30, 22, 14, 6, 29, 21, 13, 5, 28, 20, 12, 4,  //
                                     27, 19, 11, 3, 26, 18, 10, 2, 25, 17, 9, 1, 24, 16, 8, 0);
    return _mm512_permutexvar_epi16(order, _mm512_shuffle_epi8(x, pairs));
}

inline void transpose_words(V (&x)[8]) {
    V pairs[8], fours[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm512_unpacklo_epi64(x[i], x[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi64(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int odd = 0; odd < 2; odd++) {
            fours[i + odd] = _mm512_shuffle_i64x2(pairs[i + odd], pairs[i + odd + 2], 0x88);
            fours[i + odd + 2] = _mm512_shuffle_i64x2(pairs[i + odd], pairs[i + odd + 2], 0xdd);
        }
    for (int i = 0; i < 4; i++) {
        x[i] = _mm512_shuffle_i64x2(fours[i], fours[i + 4], 0x88);
        x[i + 4] = _mm512_shuffle_i64x2(fours[i], fours[i + 4], 0xdd);
    }
}

// From 64 words to their eight limbs: x[l] holds byte l of each, in order.
inline void split_limbs(V (&x)[8]) {
    for (V &eight : x) eight = transpose_bytes(eight);
    transpose_words(x);
}

}  // namespace
