// The one extension module: checks what Python hands over, lets go of the GIL, calls a kernel.
#include "bind.h"

#include <nanobind/ndarray.h>

#include "modexp.h"
#include "sha512.h"
#include "x25519.h"

namespace nb = nanobind;
using namespace veilsum::bind;

namespace {

using Bytes1 = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Offsets = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <int width> using Rows = nb::ndarray<const uint8_t, nb::shape<-1, width>, nb::c_contig, nb::device::cpu>;
template <int width> using Out = nb::ndarray<uint8_t, nb::shape<-1, width>, nb::c_contig, nb::device::cpu>;

constexpr Choice<veilsum::modexp::Kernels> modexp_choices[] = {
#ifdef VEILSUM_X86
    {Path::ifma, &veilsum::modexp::ifma::kernels},
#endif
    {Path::portable, &veilsum::modexp::portable::kernels},
};

constexpr Choice<veilsum::sha512::Kernels> sha512_choices[] = {
#ifdef VEILSUM_X86
    {Path::avx512, &veilsum::sha512::avx512::kernels},
#endif
    {Path::portable, &veilsum::sha512::portable::kernels},
};

constexpr Choice<veilsum::x25519::Kernels> x25519_choices[] = {
#ifdef VEILSUM_X86
    {Path::ifma, &veilsum::x25519::ifma::kernels},
#endif
    {Path::portable, &veilsum::x25519::portable::kernels},
};

veilsum::sha512::Messages checked(const Bytes1 &data, const Offsets &offsets) {
    if (offsets.shape(0) == 0) refuse("offsets need at least one entry");
    const size_t count = offsets.shape(0) - 1;
    const int64_t *o = offsets.data();
    bool ordered = o[0] >= 0 && o[count] <= static_cast<int64_t>(data.shape(0));
    for (size_t i = 0; i < count; i++) ordered &= o[i] <= o[i + 1];
    if (!ordered) refuse("offsets must rise from at least 0 to at most the length of the data");
    return {data.data(), o, count};
}

template <const veilsum::sha512::Variant &variant>
void sha512_digest(const char *path, const Bytes1 &data, const Offsets &offsets, const Out<variant.length> &out) {
    const auto &kernels = choose(path, sha512_choices);
    const auto messages = checked(data, offsets);
    if (out.shape(0) != messages.count) refuse("out must have one row a message");
    nb::gil_scoped_release released;
    kernels.digest(messages, variant, out.data());
}

void sha512_expand(const char *path, const Bytes1 &data, const Offsets &offsets, const nb::bytes &dst,
                   const Out<-1> &out) {
    const auto &kernels = choose(path, sha512_choices);
    const auto messages = checked(data, offsets);
    const auto *tag = static_cast<const uint8_t *>(dst.data());
    const size_t tag_length = dst.size(), length = out.shape(1);
    if (out.shape(0) != messages.count) refuse("out must have one row a message");
    if (tag_length < 1 || tag_length > 255) refuse("the domain separation tag must have 1 to 255 bytes");
    if (length < 1 || length > 64) refuse("one output block has 1 to 64 bytes");
    nb::gil_scoped_release released;
    kernels.expand(messages, tag, tag_length, length, out.data());
}

void x25519_mul(const char *path, const nb::bytes &scalar, const Rows<32> &points, const Out<32> &out) {
    const auto &kernels = choose(path, x25519_choices);
    if (!kernels.mul) refuse("this path has no native ladder");
    if (scalar.size() != 32) refuse("a scalar has 32 bytes");
    if (out.shape(0) != points.shape(0)) refuse("out must have as many rows as points");
    const auto *key = static_cast<const uint8_t *>(scalar.data());
    nb::gil_scoped_release released;
    kernels.mul(key, points.data(), points.shape(0), out.data());
}

void x25519_map(const char *path, const Rows<48> &uniform, const Out<32> &out) {
    const auto &kernels = choose(path, x25519_choices);
    if (out.shape(0) != uniform.shape(0)) refuse("out must have as many rows as uniform");
    nb::gil_scoped_release released;
    kernels.map(uniform.data(), uniform.shape(0), out.data());
}

// The sizes are checked here, the values (odd, reduced, top word not zero) by who made the bytes.
veilsum::modexp::Modulus checked(const nb::bytes &value, const nb::bytes &square, size_t width) {
    const size_t words = value.size() / 8;
    if (words == 0 || words > veilsum::modexp::max_words || value.size() != 8 * words || square.size() != 8 * words)
        refuse("a modulus and its constant have the same number of 64-bit words");
    if (width > 8 * words || width + 8 <= 8 * words) refuse("rows must be as wide as the modulus");
    return {static_cast<const uint8_t *>(value.data()), static_cast<const uint8_t *>(square.data()), words, width};
}

size_t modexp_shift(const char *path, size_t primes, size_t words) {
    return choose(path, modexp_choices).shift(primes, words);
}

bool modexp_below(const Rows<-1> &rows, const nb::bytes &value) {
    const auto modulus = checked(value, value, rows.shape(1));
    nb::gil_scoped_release released;
    return veilsum::modexp::all_below(modulus, rows.data(), rows.shape(0));
}

void modexp_power(const char *path, const Rows<-1> &rows, const nb::bytes &value, const nb::bytes &square,
                  uint64_t exponent, const Out<-1> &out) {
    const auto &kernels = choose(path, modexp_choices);
    const auto modulus = checked(value, square, rows.shape(1));
    if (!kernels.shift(1, modulus.words)) refuse("this path has no kernel of that size");
    if (out.shape(0) != rows.shape(0) || out.shape(1) != rows.shape(1)) refuse("out must have the shape of rows");
    nb::gil_scoped_release released;
    kernels.power(modulus, exponent, rows.data(), rows.shape(0), out.data());
}

void modexp_product(const char *path, const Rows<-1> &a, const Rows<-1> &b, const nb::bytes &value,
                    const nb::bytes &square, const Out<-1> &out) {
    const auto &kernels = choose(path, modexp_choices);
    const auto modulus = checked(value, square, a.shape(1));
    const size_t count = a.shape(0);
    if (!kernels.shift(1, modulus.words)) refuse("this path has no kernel of that size");
    if (b.shape(1) != a.shape(1) || (b.shape(0) != 1 && b.shape(0) != count))
        refuse("b must have the shape of a, or one row");
    if (out.shape(0) != count || out.shape(1) != a.shape(1)) refuse("out must have the shape of a");
    nb::gil_scoped_release released;
    kernels.product(modulus, a.data(), b.data(), b.shape(0) == 1, count, out.data());
}

void modexp_private_power(const char *path, const Rows<-1> &rows, const nb::bytes &secret, size_t primes,
                          const Out<-1> &out) {
    const auto &kernels = choose(path, modexp_choices);
    if (primes < 2 || primes > veilsum::modexp::max_primes) refuse("a key has two or three primes");
    const size_t width = rows.shape(1), size = 8 * primes * veilsum::modexp::fields(primes);
    const size_t words = secret.size() / size;
    if (secret.size() != size * words || !kernels.shift(primes, words)) refuse("this path has no kernel of that size");
    if (width > 8 * primes * words || width + 8 <= 8 * primes * words) refuse("rows must be as wide as the modulus");
    if (out.shape(0) != rows.shape(0) || out.shape(1) != width) refuse("out must have the shape of rows");
    const veilsum::modexp::Key key{static_cast<const uint8_t *>(secret.data()), primes, words, width};
    nb::gil_scoped_release released;
    kernels.private_power(key, rows.data(), rows.shape(0), out.data());
}

// All names of paths, best first; `here`: only those this machine can run.
nb::list cpu_paths(bool here) {
    nb::list paths;
    for (int i = veilsum::cpu::path_count - 1; i >= 0; i--) {
        const auto path = static_cast<Path>(i);
        if (!here || veilsum::cpu::supports(path)) paths.append(veilsum::cpu::name(path));
    }
    return paths;
}

nb::dict cpu_features() {
    veilsum::cpu::Feature all[veilsum::cpu::feature_count];
    veilsum::cpu::features(all);
    nb::dict found;
    for (const auto &feature : all) found[feature.name] = feature.present;
    return found;
}

// Family -> the paths that were built, best first.
nb::dict families() {
    nb::dict all;
    all["modexp"] = names(modexp_choices);
    all["ring"] = ring_paths();
    all["sha512"] = names(sha512_choices);
    all["x25519"] = names(x25519_choices);
    return all;
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Native kernels; call them through the modules of veilsum.arith.";
    m.def("cpu_paths", &cpu_paths, nb::arg("here"));
    m.def("cpu_features", &cpu_features);
    m.def("families", &families);
    m.def("modexp_shift", &modexp_shift, nb::arg("path"), nb::arg("primes"), nb::arg("words"));
    // noconvert: a wrong dtype or layout is refused, never silently copied
    m.def("modexp_below", &modexp_below, nb::arg("rows").noconvert(), nb::arg("modulus"));
    m.def("modexp_power", &modexp_power, nb::arg("path"), nb::arg("rows").noconvert(), nb::arg("modulus"),
          nb::arg("square"), nb::arg("exponent"), nb::arg("out").noconvert());
    m.def("modexp_product", &modexp_product, nb::arg("path"), nb::arg("a").noconvert(), nb::arg("b").noconvert(),
          nb::arg("modulus"), nb::arg("square"), nb::arg("out").noconvert());
    m.def("modexp_private_power", &modexp_private_power, nb::arg("path"), nb::arg("rows").noconvert(),
          nb::arg("key"), nb::arg("primes"), nb::arg("out").noconvert());
    m.def("sha512_digest", &sha512_digest<veilsum::sha512::sha512>, nb::arg("path"), nb::arg("data").noconvert(),
          nb::arg("offsets").noconvert(), nb::arg("out").noconvert());
    m.def("sha384_digest", &sha512_digest<veilsum::sha512::sha384>, nb::arg("path"), nb::arg("data").noconvert(),
          nb::arg("offsets").noconvert(), nb::arg("out").noconvert());
    m.def("sha512_expand", &sha512_expand, nb::arg("path"), nb::arg("data").noconvert(),
          nb::arg("offsets").noconvert(), nb::arg("dst"), nb::arg("out").noconvert());
    m.def("x25519_mul", &x25519_mul, nb::arg("path"), nb::arg("scalar"), nb::arg("points").noconvert(),
          nb::arg("out").noconvert());
    m.def("x25519_map", &x25519_map, nb::arg("path"), nb::arg("uniform").noconvert(),
          nb::arg("out").noconvert());
    add_ring(m);
}
