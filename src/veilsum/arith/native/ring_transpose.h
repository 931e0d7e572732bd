// The 64x64 bit transposition by plain words, for paths without instructions of their own for it.
// Included inside the namespace of each such path.

namespace {

// Swaps the off-diagonal blocks of `width` by `width` bits.
template <size_t width> inline void swap_blocks(uint64_t (&rows)[word_bits], uint64_t low) {
    for (size_t top = 0; top < word_bits; top += 2 * width)
        for (size_t i = top; i < top + width; i++) {
            const uint64_t swapped = ((rows[i] >> width) ^ rows[i + width]) & low;
            rows[i] ^= swapped << width;
            rows[i + width] ^= swapped;
        }
}

// Source: H. S. Warren, Hacker's Delight (2nd edition, 2012), section 7-3.
void transpose(const uint64_t *in, size_t count, uint64_t *out, size_t stride) {
    alignas(64) uint64_t rows[word_bits];
    memcpy(rows, in, sizeof rows);
    swap_blocks<32>(rows, 0x00000000ffffffff);
    swap_blocks<16>(rows, 0x0000ffff0000ffff);
    swap_blocks<8>(rows, 0x00ff00ff00ff00ff);
    swap_blocks<4>(rows, 0x0f0f0f0f0f0f0f0f);
    swap_blocks<2>(rows, 0x3333333333333333);
    swap_blocks<1>(rows, 0x5555555555555555);
    for (size_t b = 0; b < count; b++) out[b * stride] = rows[b];
}

}  // namespace
