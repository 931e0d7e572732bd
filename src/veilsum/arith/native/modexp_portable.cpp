// One row after the other: 64-bit words, Montgomery multiplication (P. Montgomery, 1985) word by word.
#include <string.h>

#include "modexp.h"

namespace veilsum::modexp {

namespace portable {

namespace {

using u64 = uint64_t;
using u128 = unsigned __int128;

constexpr int window = 5;
constexpr size_t entries = size_t{1} << window;
constexpr size_t max_prime_words = max_words / 2;

// Keeps the compiler from finding out that a mask is all zeros or all ones, and branching on it.
inline u64 hidden(u64 mask) {
    __asm__("" : "+r"(mask));
    return mask;
}

void wipe(void *data, size_t size) {
    memset(data, 0, size);
    __asm__ volatile("" : : "r"(data) : "memory");
}

// Words of a big-endian row, least significant first.
void load(const uint8_t *row, size_t width, size_t words, u64 *out) {
    uint8_t padded[8 * max_words] = {};
    memcpy(padded + 8 * words - width, row, width);
    for (size_t i = 0; i < words; i++) {
        u64 word;
        memcpy(&word, padded + 8 * (words - 1 - i), 8);
        out[i] = __builtin_bswap64(word);
    }
}

void store(const u64 *number, size_t width, size_t words, uint8_t *row) {
    uint8_t padded[8 * max_words];
    for (size_t i = 0; i < words; i++) {
        const u64 word = __builtin_bswap64(number[words - 1 - i]);
        memcpy(padded + 8 * i, &word, 8);
    }
    memcpy(row, padded + 8 * words - width, width);
}

// A sum of products of words.
struct Column {
    u128 low = 0;
    u64 top = 0;

    void add(u64 a, u64 b) { top += __builtin_add_overflow(low, u128{a} * b, &low); }

    void take(Column &other) {
        top += other.top + __builtin_add_overflow(low, other.low, &low);
        other = Column{};
    }

    // The lowest word; the sum goes on with what is above it.
    u64 next() {
        const u64 word = static_cast<u64>(low);
        low = low >> 64 | u128{top} << 64;
        top = 0;
        return word;
    }
};

struct Field {
    u64 n[max_words], inverse;  // n inverse = -1 modulo 2^64
    size_t words;

    Field(const uint8_t *modulus, size_t words) : words(words) {
        memcpy(n, modulus, 8 * words);
        inverse = 1;  // Newton: the number of right bits doubles
        for (int i = 0; i < 6; i++) inverse *= 2 - n[0] * inverse;
        inverse = 0 - inverse;
    }

    // out = (top, a) - n where that is not negative, else a
    void reduce_once(u64 top, const u64 *a, u64 *out) const {
        u64 difference[max_words], borrow = 0;
        for (size_t i = 0; i < words; i++) {
            const u128 d = u128{a[i]} - n[i] - borrow;
            difference[i] = static_cast<u64>(d);
            borrow = static_cast<u64>(d >> 64) & 1;
        }
        const u64 keep = hidden(0 - (borrow & (top ^ 1)));
        for (size_t i = 0; i < words; i++) out[i] = (a[i] & keep) | (difference[i] & ~keep);
    }

    // out = a b 2^(-64 words) mod n, for a < 2^(64 words) and b < n; out may be a or b. Column by column
    // ("product scanning"), the two kinds of products in two sums, which do not wait for each other.
    // Not inlined: g++ 12 runs out of registers in the loops of some callers, at half the speed.
    __attribute__((noinline)) void mul(const u64 *a, const u64 *b, u64 *out) const {
        u64 t[max_words], m[max_words];
        Column products, multiples;
        for (size_t k = 0; k < words; k++) {
            for (size_t i = 0; i < k; i++) {
                products.add(a[i], b[k - i]);
                multiples.add(m[i], n[k - i]);
            }
            products.add(a[k], b[0]);
            products.take(multiples);
            m[k] = static_cast<u64>(products.low) * inverse;
            products.add(m[k], n[0]);
            products.next();
        }
        for (size_t k = words; k < 2 * words; k++) {
            for (size_t i = k - words + 1; i < words; i++) {
                products.add(a[i], b[k - i]);
                multiples.add(m[i], n[k - i]);
            }
            products.take(multiples);
            t[k - words] = products.next();
        }
        reduce_once(static_cast<u64>(products.low), t, out);
    }

    // out = a - b mod n, both below n
    void subtract(const u64 *a, const u64 *b, u64 *out) const {
        u64 borrow = 0, carry = 0;
        for (size_t i = 0; i < words; i++) {
            const u128 d = u128{a[i]} - b[i] - borrow;
            out[i] = static_cast<u64>(d);
            borrow = static_cast<u64>(d >> 64) & 1;
        }
        const u64 again = hidden(0 - borrow);
        for (size_t i = 0; i < words; i++) {
            const u128 s = u128{out[i]} + (n[i] & again) + carry;
            out[i] = static_cast<u64>(s);
            carry = static_cast<u64>(s >> 64);
        }
    }
};

void power(const Modulus &modulus, uint64_t exponent, const uint8_t *rows, size_t count, uint8_t *out) {
    const Field field(modulus.value, modulus.words);
    const size_t words = modulus.words, width = modulus.width;
    u64 square[max_words], one[max_words] = {1}, plain[max_words], x[max_words], y[max_words];
    memcpy(square, modulus.square, 8 * words);
    const int top = exponent ? 63 - __builtin_clzll(exponent) : 0;
    for (size_t row = 0; row < count; row++) {
        load(rows + width * row, width, words, plain);
        field.mul(exponent ? plain : one, square, x);
        memcpy(y, x, sizeof y);
        for (int t = top - 1; t >= 0; t--) {
            field.mul(y, y, y);
            // the factor outside of the Montgomery form takes the result out of it, too
            if (exponent >> t & 1) field.mul(t ? x : plain, y, y);
        }
        // nothing has taken it out: an even exponent, or no step at all
        if (!(exponent & 1) || top == 0) field.mul(one, y, y);
        store(y, width, words, out + width * row);
    }
}

void product(const Modulus &modulus, const uint8_t *a, const uint8_t *b, bool one_b, size_t count, uint8_t *out) {
    const Field field(modulus.value, modulus.words);
    const size_t words = modulus.words, width = modulus.width;
    u64 square[max_words], x[max_words], y[max_words];
    memcpy(square, modulus.square, 8 * words);
    for (size_t row = 0; row < count; row++) {
        if (row == 0 || !one_b) {
            load(b + width * row, width, words, y);
            field.mul(y, square, y);
        }
        load(a + width * row, width, words, x);
        field.mul(x, y, x);
        store(x, width, words, out + width * row);
    }
}

// What one private power works with; wiped at the end.
struct Secret {
    u64 table[entries][max_prime_words], chosen[max_prime_words];
    u64 parts[max_primes][max_prime_words];  // by prime: the power, then Garner's digit
    u64 chunks[max_words], sum[max_words], exponent[max_prime_words + 1];
    u64 field[4 + max_primes][max_prime_words];
};

// Reads every entry.
void choose(Secret &s, size_t words, u64 index) {
    memset(s.chosen, 0, 8 * words);
    for (u64 e = 0; e < entries; e++) {
        const u64 same = hidden(((e ^ index) - 1) >> 63), mask = 0 - same;
        for (size_t i = 0; i < words; i++) s.chosen[i] |= s.table[e][i] & mask;
    }
}

// y = x^exponent, both in Montgomery form; y may be x.
void fixed_window(const Field &p, Secret &s, const u64 *x, const u64 *square, u64 *y) {
    const size_t words = p.words;
    const u64 one[max_prime_words] = {1};
    p.mul(one, square, s.table[0]);
    memcpy(s.table[1], x, 8 * words);
    for (size_t e = 2; e < entries; e++) p.mul(s.table[e / 2], s.table[e - e / 2], s.table[e]);
    const size_t windows = (64 * words + window - 1) / window;
    for (size_t w = windows; w-- > 0;) {
        const size_t at = w * window;
        const u128 two = u128{s.exponent[at / 64 + 1]} << 64 | s.exponent[at / 64];
        choose(s, words, static_cast<u64>(two >> (at % 64)) & (entries - 1));
        if (w == windows - 1) {
            memcpy(y, s.chosen, 8 * words);
            continue;
        }
        for (int i = 0; i < window; i++) p.mul(y, y, y);
        p.mul(y, s.chosen, y);
    }
}

// sum = digit + p sum, the sum of `length` words becoming one of `length + words`
void horner(const Field &p, const u64 *digit, u64 *sum, size_t length) {
    const size_t words = p.words;
    u64 t[max_words] = {};
    memcpy(t, digit, 8 * words);
    for (size_t i = 0; i < length; i++) {
        u64 carry = 0;
        for (size_t j = 0; j < words; j++) {
            const u128 v = u128{sum[i]} * p.n[j] + t[i + j] + carry;
            t[i + j] = static_cast<u64>(v);
            carry = static_cast<u64>(v >> 64);
        }
        t[i + words] = carry;  // nothing has been there: digit and rows before end below
    }
    memcpy(sum, t, 8 * (length + words));
    wipe(t, sizeof t);
}

void private_row(const Key &key, Secret &s, const uint8_t *row, uint8_t *out) {
    const size_t words = key.words, fields_here = fields(key.primes);
    const u64 one[max_prime_words] = {1};
    load(row, key.width, key.primes * words, s.chunks);
    for (size_t i = 0; i < key.primes; i++) {
        for (size_t f = 0; f < fields_here; f++)
            memcpy(s.field[f], key.words_of_primes + 8 * words * (i * fields_here + f), 8 * words);
        const Field p(key.words_of_primes + 8 * words * i * fields_here, words);
        memcpy(s.exponent, s.field[1], 8 * words);
        s.exponent[words] = 0;

        u64 *x = s.parts[i], part[max_prime_words], negative[max_prime_words], zero[max_prime_words] = {};
        memset(x, 0, 8 * words);
        for (size_t c = 0; c < key.primes; c++) {  // x = row in Montgomery form, mod p
            p.mul(s.chunks + words * c, s.field[2 + c], part);
            p.subtract(zero, part, negative);
            p.subtract(x, negative, x);
        }
        fixed_window(p, s, x, s.field[2], x);
        p.mul(one, x, x);
        if (i == 0) continue;
        const u64 *coefficient = s.field[fields_here - 2], *first = s.field[fields_here - 1];
        p.mul(x, coefficient, x);  // Garner: digit i = (x - the digits before it) / (the primes before it)
        p.mul(s.parts[0], coefficient, part);
        p.subtract(x, part, x);
        if (i == 2) {
            p.mul(s.parts[1], first, part);
            p.mul(part, coefficient, part);
            p.subtract(x, part, x);
        }
        wipe(part, sizeof part);
        wipe(negative, sizeof negative);
    }
    memcpy(s.sum, s.parts[key.primes - 1], 8 * words);
    for (size_t i = key.primes - 1; i-- > 0;) {
        const Field p(key.words_of_primes + 8 * words * i * fields_here, words);
        horner(p, s.parts[i], s.sum, words * (key.primes - 1 - i));
    }
    store(s.sum, key.width, key.primes * words, out);
}

void private_power(const Key &key, const uint8_t *rows, size_t count, uint8_t *out) {
    Secret s;
    for (size_t row = 0; row < count; row++) private_row(key, s, rows + key.width * row, out + key.width * row);
    wipe(&s, sizeof s);
}

size_t shift(size_t primes, size_t words) {
    const bool fits = words >= min_words && primes * words <= max_words && primes <= max_primes;
    return fits ? 64 * words : 0;
}

}  // namespace

const Kernels kernels = {shift, power, product, private_power};

}  // namespace portable

bool all_below(const Modulus &modulus, const uint8_t *rows, size_t count) {
    uint64_t n[max_words], x[max_words], below = 1;
    memcpy(n, modulus.value, 8 * modulus.words);
    for (size_t row = 0; row < count; row++) {
        portable::load(rows + modulus.width * row, modulus.width, modulus.words, x);
        uint64_t borrow = 0;
        for (size_t i = 0; i < modulus.words; i++) {
            const unsigned __int128 d = static_cast<unsigned __int128>(x[i]) - n[i] - borrow;
            borrow = static_cast<uint64_t>(d >> 64) & 1;
        }
        below &= borrow;
    }
    return below;
}

}  // namespace veilsum::modexp
