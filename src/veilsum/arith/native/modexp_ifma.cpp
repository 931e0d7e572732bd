// Eight rows at a time, one in each lane.
#include "modexp.h"
#include "modexp_ifma_field.h"

namespace veilsum::modexp::ifma {

namespace {

constexpr uint8_t one_word[8] = {1};

template <int tiles, int width> struct Public {
    using F = Field<tiles, width>;
    static constexpr int limbs = F::limbs;

    static void power(const Modulus &modulus, uint64_t exponent, const uint8_t *rows, size_t count, uint8_t *out) {
        F field(modulus.value, modulus.words);
        Rows<limbs> padded;
        V square[limbs], one[limbs], plain[limbs], x[limbs], y[limbs];
        F::spread(modulus.square, modulus.words, square);
        F::spread(one_word, 1, one);
        const int top = exponent ? 63 - __builtin_clzll(exponent) : 0;
        for (size_t row = 0; row < count; row += lanes) {
            const size_t here = count - row < lanes ? count - row : lanes;
            padded.load(rows + modulus.width * row, modulus.width, here, plain);
            field.mul(exponent ? plain : one, square, x);
            memcpy(y, x, sizeof y);
            for (int t = top - 1; t >= 0; t--) {
                field.square(y, y);
                // the factor outside of the Montgomery form takes the result out of it, too
                if (exponent >> t & 1) field.mul(y, t ? x : plain, y);
            }
            // nothing has taken it out: an even exponent, or no step at all
            if (!(exponent & 1) || top == 0) field.mul(y, one, y);
            field.reduce_once(y, y);
            padded.store(y, out + modulus.width * row, modulus.width, here);
        }
    }

    static void product(const Modulus &modulus, const uint8_t *a, const uint8_t *b, bool one_b, size_t count,
                        uint8_t *out) {
        F field(modulus.value, modulus.words);
        Rows<limbs> padded;
        V square[limbs], x[limbs], y[limbs];
        F::spread(modulus.square, modulus.words, square);
        for (size_t row = 0; row < count; row += lanes) {
            const size_t here = count - row < lanes ? count - row : lanes;
            if (!one_b) {
                padded.load(b + modulus.width * row, modulus.width, here, y);
                field.mul(y, square, y);
            } else if (row == 0) {
                for (size_t lane = 0; lane < lanes; lane++)
                    memcpy(padded.padded + padded.stride * (lane + 1) - modulus.width, b, modulus.width);
                padded.load(b, modulus.width, 0, y);
                field.mul(y, square, y);
            }
            padded.load(a + modulus.width * row, modulus.width, here, x);
            field.mul(x, y, x);
            field.reduce_once(x, x);
            padded.store(x, out + modulus.width * row, modulus.width, here);
        }
    }
};

constexpr int window = 4;  // tables of 32 entries would leave the first cache, and be slower for it

template <int primes, int tiles, int width> struct Private {
    using F = Field<tiles, width>;
    static constexpr int limbs = F::limbs, entries = 1 << window;

    V table[entries][limbs], chosen[limbs], part[limbs];
    V chunks[primes * limbs], sum[primes * limbs], wide[primes * limbs];
    V parts[primes][limbs];                 // by prime: the power, then Garner's digit
    V field[primes + 4][limbs];
    uint64_t exponent[max_words / 2 + 1];

    ~Private() {
        memset(static_cast<void *>(this), 0, sizeof *this);
        __asm__ volatile("" : : "r"(this) : "memory");
    }

    // Reads every entry.
    void choose(uint64_t index) {
        V found[limbs];
        UNROLL for (int j = 0; j < limbs; j++) found[j] = zero();
        for (uint64_t e = 0; e < entries; e++) {
            const V mask = broadcast(0 - (((e ^ index) - 1) >> 63));
            UNROLL for (int j = 0; j < limbs; j++)
                found[j] = _mm512_ternarylogic_epi64(found[j], mask, table[e][j], 0xf8);  // found | mask & entry
        }
        UNROLL for (int j = 0; j < limbs; j++) chosen[j] = found[j];
    }

    // y = x^exponent, both in Montgomery form; y may be x.
    void fixed_window(F &p, size_t words, const V *x, const V *square, V *y) {
        V one[limbs];
        F::spread(one_word, 1, one);
        p.mul(square, one, table[0]);
        memcpy(table[1], x, sizeof table[1]);
        for (int e = 2; e < entries; e += 2) {
            p.square(table[e / 2], table[e]);
            p.mul(table[e], x, table[e + 1]);
        }
        const size_t windows = (64 * words + window - 1) / window;
        for (size_t w = windows; w-- > 0;) {
            const size_t at = w * window;
            const unsigned __int128 two = static_cast<unsigned __int128>(exponent[at / 64 + 1]) << 64 | exponent[at / 64];
            choose(static_cast<uint64_t>(two >> (at % 64)) & (entries - 1));
            if (w == windows - 1) {
                memcpy(y, chosen, sizeof chosen);
                continue;
            }
            for (int i = 0; i < window; i++) p.square(y, y);
            p.mul(y, chosen, y);
        }
    }

    // parts[i] = (parts[i] - the digits before it) / (the primes before it), modulo the prime; then below it.
    void garner(F &p, int i) {
        V *x = parts[i];
        F::clean(x, limbs);
        for (int j = 0; j < limbs; j++)  // all digits are below 2^(bits of a prime): 8 p is more than two of them
            part[j] = sub(add(x[j], _mm512_slli_epi64(p.n[j], 3)), parts[0][j]);
        if (i == 2) {
            p.mul(parts[1], field[primes + 3], x);
            F::clean(x, limbs);
            for (int j = 0; j < limbs; j++) part[j] = sub(part[j], x[j]);
        }
        F::carry(part, part, limbs);
        p.mul(part, field[primes + 2], x);
    }

    void eight(const Key &key, const uint8_t *rows, size_t count, uint8_t *out) {
        Rows<primes * limbs> padded;
        V one[limbs];
        F::spread(one_word, 1, one);
        const size_t size = 8 * key.words;
        padded.load(rows, key.width, count, chunks);
        for (int i = 0; i < primes; i++) {
            const uint8_t *own = key.words_of_primes + size * fields(primes) * static_cast<size_t>(i);
            for (size_t f = 0; f < fields(primes); f++) F::spread(own + size * f, key.words, field[f]);
            F p(own, key.words);
            memcpy(exponent, own + size, size);
            exponent[key.words] = 0;

            V *x = parts[i];
            for (int j = 0; j < limbs; j++) x[j] = zero();
            for (int c = 0; c < primes; c++) {  // x = row in Montgomery form, mod p
                p.mul(chunks + limbs * c, field[2 + c], part);
                F::clean(part, limbs);
                for (int j = 0; j < limbs; j++) x[j] = add(x[j], part[j]);
            }
            F::carry(x, x, limbs);
            fixed_window(p, key.words, x, field[2], x);
            p.mul(x, one, x);
            if (i > 0) garner(p, i);
            p.reduce_once(x, x);
        }
        // digit 0 + p_0 (digit 1 + p_1 digit 2)
        memcpy(sum, parts[primes - 1], sizeof parts[0]);
        for (int i = primes - 1; i-- > 0;) {
            const int length = limbs * (primes - 1 - i);
            F::spread(key.words_of_primes + size * fields(primes) * static_cast<size_t>(i), key.words, field[0]);
            F::multiply(wide, field[0], sum, length);
            for (int j = 0; j < limbs; j++) wide[j] = add(wide[j], parts[i][j]);
            F::carry(wide, sum, length + limbs);
        }
        F::clean(sum, primes * limbs);
        padded.store(sum, out, key.width, count);
    }

    static void power(const Key &key, const uint8_t *rows, size_t count, uint8_t *out) {
        Private work;
        for (size_t row = 0; row < count; row += lanes)
            work.eight(key, rows + key.width * row, count - row < lanes ? count - row : lanes,
                       out + key.width * row);
    }
};

size_t shift(size_t primes, size_t words) {
    if (primes == 1 && words == 32) return 40 * radix;
    if (primes == 1 && words == 48) return 60 * radix;
    if ((primes == 2 || primes == 3) && words == 16) return 20 * radix;
    if (primes == 2 && words == 24) return 30 * radix;
    return 0;
}

void power(const Modulus &modulus, uint64_t exponent, const uint8_t *rows, size_t count, uint8_t *out) {
    (modulus.words == 32 ? Public<2, 20>::power : Public<3, 20>::power)(modulus, exponent, rows, count, out);
}

void product(const Modulus &modulus, const uint8_t *a, const uint8_t *b, bool one_b, size_t count, uint8_t *out) {
    (modulus.words == 32 ? Public<2, 20>::product : Public<3, 20>::product)(modulus, a, b, one_b, count, out);
}

void private_power(const Key &key, const uint8_t *rows, size_t count, uint8_t *out) {
    if (key.words == 24) return Private<2, 2, 15>::power(key, rows, count, out);
    (key.primes == 2 ? Private<2, 1, 20>::power : Private<3, 1, 20>::power)(key, rows, count, out);
}

}  // namespace

const Kernels kernels = {shift, power, product, private_power};

}  // namespace veilsum::modexp::ifma
