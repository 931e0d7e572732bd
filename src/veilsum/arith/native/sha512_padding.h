// SHA-512's padding, and RFC 9380's fixed strings. Internal linkage on purpose: every file that includes
// this is compiled for its own instruction set and keeps its own copy.
#pragma once
#include <string.h>

#include "sha512.h"

namespace veilsum::sha512 {
namespace {

constexpr size_t block_bytes = 128;

// How many blocks hold `length` bytes, the mark 0x80 and the 16-byte bit count.
inline size_t block_count(size_t length) { return (length + 1 + 16 + block_bytes - 1) / block_bytes; }

// Writes block `index` of (message || suffix || padding); `before` bytes were hashed ahead of it.
inline void fill_block(uint8_t *block, size_t index, const uint8_t *message, size_t length,
                       const uint8_t *suffix, size_t suffix_length, size_t before) {
    const size_t start = index * block_bytes, total = length + suffix_length;
    size_t done = 0;
    if (start < length) {
        done = length - start < block_bytes ? length - start : block_bytes;
        memcpy(block, message + start, done);
    }
    if (done < block_bytes && start + done < total) {
        const size_t from = start + done - length;
        const size_t take = suffix_length - from < block_bytes - done ? suffix_length - from : block_bytes - done;
        memcpy(block + done, suffix + from, take);
        done += take;
    }
    if (done == block_bytes) return;
    memset(block + done, 0, block_bytes - done);
    if (start + done == total) block[done] = 0x80;
    if (index + 1 == block_count(total)) {
        const uint64_t bits = static_cast<uint64_t>(before + total) * 8;  // lengths stay below 2^61 bytes
        for (size_t i = 0; i < 8; i++) block[block_bytes - 1 - i] = static_cast<uint8_t>(bits >> (8 * i));
    }
}

// The strings around a message in expand_message_xmd (RFC 9380, section 5.3.1) for one output block:
// b_0 = H(Z_pad || msg || after_message), b_1 = H(b_0 || after_b0).
struct Suffixes {
    uint8_t after_message[3 + 256], after_b0[1 + 256];
    size_t after_message_length, after_b0_length;
};

inline void make_suffixes(Suffixes &s, const uint8_t *dst, size_t dst_length, size_t length) {
    s.after_message[0] = static_cast<uint8_t>(length >> 8);
    s.after_message[1] = static_cast<uint8_t>(length);
    s.after_message[2] = 0;
    memcpy(s.after_message + 3, dst, dst_length);
    s.after_message[3 + dst_length] = static_cast<uint8_t>(dst_length);
    s.after_message_length = dst_length + 4;
    s.after_b0[0] = 1;
    memcpy(s.after_b0 + 1, dst, dst_length);
    s.after_b0[1 + dst_length] = static_cast<uint8_t>(dst_length);
    s.after_b0_length = dst_length + 2;
}

}  // namespace
}  // namespace veilsum::sha512
