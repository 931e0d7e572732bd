#include "sha512_padding.h"

namespace veilsum::sha512::portable {

namespace {

inline uint64_t rotate(uint64_t x, int n) { return (x >> n) | (x << (64 - n)); }

inline uint64_t load_big_endian(const uint8_t *p) {
    uint64_t x = 0;
    for (int i = 0; i < 8; i++) x = (x << 8) | p[i];
    return x;
}

void compress(uint64_t state[8], const uint8_t *block) {
    uint64_t w[80];
    for (int t = 0; t < 16; t++) w[t] = load_big_endian(block + 8 * t);
    for (int t = 16; t < 80; t++) {
        const uint64_t s0 = rotate(w[t - 15], 1) ^ rotate(w[t - 15], 8) ^ (w[t - 15] >> 7);
        const uint64_t s1 = rotate(w[t - 2], 19) ^ rotate(w[t - 2], 61) ^ (w[t - 2] >> 6);
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    uint64_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint64_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 80; t++) {
        const uint64_t sum1 = rotate(e, 14) ^ rotate(e, 18) ^ rotate(e, 41);
        const uint64_t t1 = h + sum1 + (g ^ (e & (f ^ g))) + round_constants[t] + w[t];
        const uint64_t sum0 = rotate(a, 28) ^ rotate(a, 34) ^ rotate(a, 39);
        const uint64_t t2 = sum0 + ((a & b) | (c & (a | b)));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

void absorb(uint64_t state[8], const uint8_t *message, size_t length, const uint8_t *suffix,
            size_t suffix_length, size_t before) {
    uint8_t block[block_bytes];
    const size_t blocks = block_count(length + suffix_length);
    for (size_t i = 0; i < blocks; i++) {
        fill_block(block, i, message, length, suffix, suffix_length, before);
        compress(state, block);
    }
}

void store(const uint64_t state[8], uint8_t *out, size_t length) {
    for (size_t i = 0; i < length; i++) out[i] = static_cast<uint8_t>(state[i / 8] >> (56 - 8 * (i % 8)));
}

void digest(const Messages &messages, const Variant &variant, uint8_t *out) {
    for (size_t i = 0; i < messages.count; i++) {
        uint64_t state[8];
        memcpy(state, variant.initial, sizeof state);
        const int64_t from = messages.offsets[i];
        absorb(state, messages.data + from, static_cast<size_t>(messages.offsets[i + 1] - from), nullptr, 0, 0);
        store(state, out + variant.length * i, variant.length);
    }
}

void expand(const Messages &messages, const uint8_t *dst, size_t dst_length, size_t length, uint8_t *out) {
    Suffixes s;
    make_suffixes(s, dst, dst_length, length);
    const uint8_t zeros[block_bytes] = {};
    uint64_t after_z_pad[8];
    memcpy(after_z_pad, sha512.initial, sizeof after_z_pad);
    compress(after_z_pad, zeros);
    for (size_t i = 0; i < messages.count; i++) {
        uint64_t state[8];
        uint8_t b0[64];
        memcpy(state, after_z_pad, sizeof state);
        const int64_t from = messages.offsets[i];
        absorb(state, messages.data + from, static_cast<size_t>(messages.offsets[i + 1] - from), s.after_message,
               s.after_message_length, block_bytes);
        store(state, b0, 64);
        memcpy(state, sha512.initial, sizeof state);
        absorb(state, b0, 64, s.after_b0, s.after_b0_length, 0);
        store(state, out + length * i, length);
    }
}

}  // namespace

const Kernels kernels = {digest, expand};

}  // namespace veilsum::sha512::portable
