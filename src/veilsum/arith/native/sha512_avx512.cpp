#include <immintrin.h>

#include "sha512_padding.h"

namespace veilsum::sha512::avx512 {

namespace {

constexpr size_t lanes = 8;

using V = __m512i;

inline V broadcast(uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
inline V add(V a, V b) { return _mm512_add_epi64(a, b); }
// vpternlogq takes the truth table of three bits: 0x96 is exclusive or, 0xca choose, 0xe8 majority
inline V xor3(V a, V b, V c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }

inline V big_endian(V x) {
    const V order = _mm512_broadcast_i32x4(_mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    return _mm512_shuffle_epi8(x, order);
}

// One block of eight messages; w[t] holds word t of every lane and is overwritten.
void compress(V state[8], V w[16]) {
    V a = state[0], b = state[1], c = state[2], d = state[3];
    V e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 80; t += 16) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            if (t > 0) {
                const V early = w[(i + 1) % 16], late = w[(i + 14) % 16];
                const V s0 = xor3(_mm512_ror_epi64(early, 1), _mm512_ror_epi64(early, 8), _mm512_srli_epi64(early, 7));
                const V s1 = xor3(_mm512_ror_epi64(late, 19), _mm512_ror_epi64(late, 61), _mm512_srli_epi64(late, 6));
                w[i] = add(add(w[i], s0), add(w[(i + 9) % 16], s1));
            }
            const V sum1 = xor3(_mm512_ror_epi64(e, 14), _mm512_ror_epi64(e, 18), _mm512_ror_epi64(e, 41));
            const V choice = _mm512_ternarylogic_epi64(e, f, g, 0xca);
            const V t1 = add(add(add(h, broadcast(round_constants[t + i])), w[i]), add(sum1, choice));
            const V sum0 = xor3(_mm512_ror_epi64(a, 28), _mm512_ror_epi64(a, 34), _mm512_ror_epi64(a, 39));
            const V t2 = add(sum0, _mm512_ternarylogic_epi64(a, b, c, 0xe8));
            h = g, g = f, f = e, e = add(d, t1), d = c, c = b, b = a, a = add(t1, t2);
        }
    }
    const V after[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; i++) state[i] = add(state[i], after[i]);
}

void start(V state[8], const uint64_t (&words)[8]) {
    for (int i = 0; i < 8; i++) state[i] = broadcast(words[i]);
}

// What follows every message (a suffix and the mark 0x80) with zeros on both sides: loading 128 bytes so that
// the suffix starts where the message ends gives that part of a block for any length, in registers.
struct Tail {
    uint8_t bytes[block_bytes + 260 + 2 * block_bytes];
    size_t suffix_length;
};

void make_tail(Tail &tail, const uint8_t *suffix, size_t suffix_length) {
    memset(&tail, 0, sizeof tail);
    if (suffix_length) memcpy(tail.bytes + block_bytes, suffix, suffix_length);
    tail.bytes[block_bytes + suffix_length] = 0x80;
    tail.suffix_length = suffix_length;
}

// Up to eight messages; lanes beyond the last one hash the empty message.
struct Lanes {
    const uint8_t *message[lanes];
    size_t length[lanes], blocks[lanes], most_blocks;
};

Lanes take(const Messages &messages, size_t from, size_t suffix_length) {
    Lanes r = {};
    for (size_t lane = 0; lane < lanes; lane++) {
        if (from + lane < messages.count) {
            const int64_t begin = messages.offsets[from + lane];
            r.message[lane] = messages.data + begin;
            r.length[lane] = static_cast<size_t>(messages.offsets[from + lane + 1] - begin);
        }
        r.blocks[lane] = block_count(r.length[lane] + suffix_length);
        r.most_blocks = r.blocks[lane] > r.most_blocks ? r.blocks[lane] : r.most_blocks;
    }
    return r;
}

// 64 bytes of (message || tail) from `position` on. The masked load does not touch what it leaves out.
inline V load(const Lanes &in, const Tail &tail, size_t lane, size_t position) {
    const size_t length = in.length[lane];
    const size_t left = length > position ? length - position : 0;
    const __mmask64 mask = left >= 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
    const V message = _mm512_maskz_loadu_epi8(mask, in.message[lane] + (left ? position : 0));
    const size_t limit = sizeof tail.bytes - 64;  // beyond the suffix there are only zeros
    size_t from = position + block_bytes > length ? position + block_bytes - length : 0;
    from = from < limit ? from : limit;
    return _mm512_or_si512(message, _mm512_loadu_si512(tail.bytes + from));
}

// Eight rows of eight words to eight words of eight rows.
void transpose(const V in[8], V out[8]) {
    V pairs[8], fours[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm512_unpacklo_epi64(in[i], in[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi64(in[i], in[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int j = 0; j < 2; j++) {
            fours[i + j] = _mm512_shuffle_i64x2(pairs[i + j], pairs[i + 2 + j], 0x88);
            fours[i + 2 + j] = _mm512_shuffle_i64x2(pairs[i + j], pairs[i + 2 + j], 0xdd);
        }
    }
    for (int j = 0; j < 4; j++) {
        out[j] = _mm512_shuffle_i64x2(fours[j], fours[4 + j], 0x88);
        out[4 + j] = _mm512_shuffle_i64x2(fours[j], fours[4 + j], 0xdd);
    }
}

// `before` bytes were hashed ahead of the messages. A lane that is through keeps its state while longer ones
// go on: only lengths, which are public, decide that.
void absorb(V state[8], const Lanes &in, const Tail &tail, size_t before) {
    for (size_t i = 0; i < in.most_blocks; i++) {
        V rows[8], w[16], next[8];
        for (size_t half = 0; half < 2; half++) {
            for (size_t lane = 0; lane < lanes; lane++)
                rows[lane] = load(in, tail, lane, i * block_bytes + 64 * half);
            transpose(rows, w + 8 * half);
        }
        for (V &word : w) word = big_endian(word);
        __mmask8 live = 0, last = 0;
        alignas(64) uint64_t bits[lanes];
        for (size_t lane = 0; lane < lanes; lane++) {
            live = static_cast<__mmask8>(live | (i < in.blocks[lane]) << lane);
            last = static_cast<__mmask8>(last | (i + 1 == in.blocks[lane]) << lane);
            bits[lane] = 8 * static_cast<uint64_t>(before + in.length[lane] + tail.suffix_length);
        }
        w[15] = _mm512_mask_mov_epi64(w[15], last, _mm512_load_si512(bits));
        for (int j = 0; j < 8; j++) next[j] = state[j];
        compress(next, w);
        for (int j = 0; j < 8; j++) state[j] = _mm512_mask_mov_epi64(state[j], live, next[j]);
    }
}

// Row `lane` of out gets the first `length` bytes of that lane's state.
void store(const V state[8], uint8_t *out, size_t used, size_t length) {
    V words[8], rows[8];
    for (int j = 0; j < 8; j++) words[j] = big_endian(state[j]);
    transpose(words, rows);
    const __mmask64 mask = length >= 64 ? ~__mmask64{0} : (__mmask64{1} << length) - 1;
    for (size_t lane = 0; lane < used; lane++) _mm512_mask_storeu_epi8(out + length * lane, mask, rows[lane]);
}

size_t used(const Messages &messages, size_t from) {
    return messages.count - from < lanes ? messages.count - from : lanes;
}

void digest(const Messages &messages, const Variant &variant, uint8_t *out) {
    Tail tail;
    make_tail(tail, nullptr, 0);
    for (size_t i = 0; i < messages.count; i += lanes) {
        V state[8];
        start(state, variant.initial);
        absorb(state, take(messages, i, 0), tail, 0);
        store(state, out + variant.length * i, used(messages, i), variant.length);
    }
}

void expand(const Messages &messages, const uint8_t *dst, size_t dst_length, size_t length, uint8_t *out) {
    Suffixes s;
    make_suffixes(s, dst, dst_length, length);
    Tail tail;
    make_tail(tail, s.after_message, s.after_message_length);
    V after_z_pad[8], w[16];
    start(after_z_pad, sha512.initial);
    for (V &word : w) word = _mm512_setzero_si512();
    compress(after_z_pad, w);
    // b_0 fills the first half of the first block of b_1; the rest is the same for every message
    const size_t blocks = block_count(64 + s.after_b0_length);
    uint8_t rest[4 * block_bytes];
    const uint8_t blank[64] = {};
    for (size_t i = 0; i < blocks; i++)
        fill_block(rest + block_bytes * i, i, blank, 64, s.after_b0, s.after_b0_length, 0);

    for (size_t i = 0; i < messages.count; i += lanes) {
        V b0[8], b1[8];
        for (int j = 0; j < 8; j++) b0[j] = after_z_pad[j];
        absorb(b0, take(messages, i, s.after_message_length), tail, block_bytes);
        start(b1, sha512.initial);
        for (size_t k = 0; k < blocks; k++) {
            for (int t = 0; t < 16; t++) {
                uint64_t word;
                memcpy(&word, rest + block_bytes * k + 8 * t, 8);
                w[t] = k == 0 && t < 8 ? b0[t] : broadcast(__builtin_bswap64(word));
            }
            compress(b1, w);
        }
        store(b1, out + length * i, used(messages, i), length);
    }
}

}  // namespace

const Kernels kernels = {digest, expand};

}  // namespace veilsum::sha512::avx512
