// The local steps as plain loops. Included inside the namespace of each path, so that every path compiles them
// with its own flags, under its own names; the compiler makes the wide instructions.
// Before it stands the path's own
//     void transpose(const uint64_t *in, size_t count, uint64_t *out, size_t stride)
// which takes 64 words and writes word b of the transposed bits to out[b * stride], for at least b < count.

namespace {

// x if the bit is 0, -x if it is 1
inline uint64_t negate_if(uint64_t bit, uint64_t x) { return (x ^ (0 - bit)) + bit; }

inline uint64_t times_bit(uint64_t bit, uint64_t x) { return x & (0 - bit); }

inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

// What the pragma promises: no output overlaps an input of another index.
void product(size_t n, const uint64_t *x0, const uint64_t *x1, const uint64_t *y0, const uint64_t *y1,
             uint64_t *out) {
#pragma GCC ivdep
    for (size_t i = 0; i < n; i++) out[i] = x0[i] * (y0[i] + y1[i]) + x1[i] * y0[i];
}

void add_masks(size_t n, const uint64_t *x, const uint64_t *plus, const uint64_t *minus, uint64_t *out) {
#pragma GCC ivdep
    for (size_t i = 0; i < n; i++) out[i] = x[i] + plus[i] - minus[i];
}

void conjunction(size_t n, const uint64_t *xa, const uint64_t *xb, const uint64_t *ya, const uint64_t *yb,
                 const uint64_t *plus, const uint64_t *minus, uint64_t *out) {
#pragma GCC ivdep
    for (size_t i = 0; i < n; i++) out[i] = (xa[i] & (ya[i] ^ yb[i])) ^ (xb[i] & ya[i]) ^ plus[i] ^ minus[i];
}

void majority(size_t n, const uint64_t *ua, const uint64_t *ub, const uint64_t *va, const uint64_t *vb,
              const uint64_t *ca, const uint64_t *cb, const uint64_t *plus, const uint64_t *minus, uint64_t *out) {
#pragma GCC ivdep
    for (size_t i = 0; i < n; i++) {
        const uint64_t sa = ua[i] ^ ca[i], sb = ub[i] ^ cb[i], ta = va[i] ^ ca[i], tb = vb[i] ^ cb[i];
        out[i] = (sa & (ta ^ tb)) ^ (sb & ta) ^ plus[i] ^ minus[i] ^ ca[i];
    }
}

// Eight words of every plane together: a plane is written a cache line at a time.
void planes(size_t n, const uint64_t *x, size_t count, uint64_t *out) {
    constexpr size_t group = 8;
    const size_t all = words(n);
    for (size_t first = 0; first < all; first += group) {
        const size_t some = smaller(group, all - first);
        alignas(64) uint64_t rows[word_bits][group];
        for (size_t w = 0; w < some; w++) {
            const size_t start = (first + w) * word_bits;
            alignas(64) uint64_t padded[word_bits];
            const uint64_t *block = x + start;
            if (n - start < word_bits) {
                memset(padded, 0, sizeof padded);
                memcpy(padded, block, (n - start) * sizeof *block);
                block = padded;
            }
            transpose(block, count, &rows[0][w], group);
        }
        if (some == group)
            for (size_t b = 0; b < count; b++) memcpy(out + b * all + first, rows[b], sizeof rows[b]);
        else
            for (size_t b = 0; b < count; b++) memcpy(out + b * all + first, rows[b], some * sizeof *out);
    }
}

void plane(size_t n, const uint64_t *x, size_t bit, uint64_t *out) {
    const size_t whole = n / word_bits;
    for (size_t w = 0; w < whole; w++) {
        uint64_t word = 0;
        for (size_t j = 0; j < word_bits; j++) word |= (x[w * word_bits + j] >> bit & 1) << j;
        out[w] = word;
    }
    if (n % word_bits == 0) return;
    uint64_t word = 0;
    for (size_t j = 0; j < n % word_bits; j++) word |= (x[whole * word_bits + j] >> bit & 1) << j;
    out[whole] = word;
}

void from_one_plane(size_t n, const uint64_t *bits, uint64_t *out) {
    for (size_t w = 0; w < n / word_bits; w++) {
        const uint64_t word = bits[w];
        for (size_t j = 0; j < word_bits; j++) out[w * word_bits + j] = word >> j & 1;
    }
    for (size_t i = n - n % word_bits; i < n; i++) out[i] = bits[i / word_bits] >> i % word_bits & 1;
}

void from_planes(size_t n, const uint64_t *planes, size_t count, uint64_t *out) {
    if (count == 1) return from_one_plane(n, planes, out);
    constexpr size_t group = 8;
    const size_t all = words(n);
    alignas(64) uint64_t block[group][word_bits] = {};  // planes from `count` on stay zero
    for (size_t first = 0; first < all; first += group) {
        const size_t some = smaller(group, all - first);
        for (size_t b = 0; b < count; b++)
            for (size_t w = 0; w < some; w++) block[w][b] = planes[b * all + first + w];
        for (size_t w = 0; w < some; w++) {
            const size_t start = (first + w) * word_bits;
            if (n - start >= word_bits) {
                transpose(block[w], word_bits, out + start, 1);
                continue;
            }
            alignas(64) uint64_t last[word_bits];
            transpose(block[w], word_bits, last, 1);
            memcpy(out + start, last, (n - start) * sizeof *out);
        }
    }
}

// Runs `one(i, bit position, word)` over all elements, 64 of a word in an inner loop of fixed length.
template <typename One> inline void by_words(size_t n, const One &one) {
    for (size_t w = 0; w < n / word_bits; w++) {
#pragma GCC ivdep
        for (size_t j = 0; j < word_bits; j++) one(w * word_bits + j, j, w);
    }
    for (size_t i = n - n % word_bits; i < n; i++) one(i, i % word_bits, i / word_bits);
}

// The carry into the top is the OR of two top bits that no party may see: d and e are known up to a flip, the
// flips' product is shared as (triple, product).
void truncate_share(size_t n, const Truncation &t, uint64_t *out) {
    const uint64_t *share = t.share, *own = t.own, *other = t.other, *triple = t.triple, *shared = t.product;
    const uint64_t *mask = t.mask, lead = t.lead, fraction = t.fraction, rest = word_bits - fraction;
    const uint64_t offset = lead << (word_bits - 2 - fraction);
    by_words(n, [=](size_t i, size_t j, size_t w) {
        const uint64_t d = own[w] >> j & 1, e = other[w] >> j & 1, held = triple[w] >> j & 1;
        const uint64_t both = (lead & d & e) + negate_if(d, e & held) + negate_if(d ^ e, shared[i]);
        const uint64_t wrap = (share[i] >> 63) - both;
        out[i] = (share[i] >> fraction) - offset - (wrap << rest) + mask[i];
    });
}

void select_deal(size_t n, const uint64_t *u, const uint64_t *bits, const uint64_t *w0, const uint64_t *c0,
                 const uint64_t *plus, const uint64_t *minus, uint64_t *w1, uint64_t *c1, uint64_t *z) {
    by_words(n, [=](size_t i, size_t j, size_t w) {
        const uint64_t c = bits[w] >> j & 1, x = u[i], less = w0[i], from = c0[i], added = plus[i] - minus[i];
        w1[i] = negate_if(c, x) - less;
        c1[i] = c - from;
        z[i] = times_bit(c, x) + added;
    });
}

void select_take(size_t n, const uint64_t *v, const uint64_t *bits, const uint64_t *w, const uint64_t *c, bool lead,
                 const uint64_t *plus, const uint64_t *minus, uint64_t *out) {
    const uint64_t own = lead;
    by_words(n, [=](size_t i, size_t j, size_t word) {
        const uint64_t d = bits[word] >> j & 1;
        const uint64_t chosen = times_bit(d, w[i]) + c[i] * negate_if(d, v[i]) + times_bit(d & own, v[i]);
        out[i] = chosen + plus[i] - minus[i];
    });
}

}  // namespace

const Steps steps = {product,     add_masks, planes,         plane,       from_planes,
                            conjunction, majority,  truncate_share, select_deal, select_take};
