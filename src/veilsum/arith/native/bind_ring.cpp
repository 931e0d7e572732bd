// The ring family: arrays come by the buffer protocol, whose checks cost little beside kernels of microseconds.
#include "bind.h"
#include "ring.h"

namespace veilsum::bind {

namespace {

using ring::Kernels;
using ring::words;

constexpr Choice<Kernels> choices[] = {
#ifdef VEILSUM_X86
    {Path::amx, &ring::amx::kernels},
    {Path::avx512, &ring::avx512::kernels},
    {Path::avx2, &ring::avx2::kernels},
#endif
    {Path::portable, &ring::portable::kernels},
};

[[noreturn]] void refuse(const char *name, const char *why) {
    char text[160];
    snprintf(text, sizeof text, "%s %s", name, why);
    throw nb::value_error(text);
}

[[noreturn]] void refuse_type(const char *name) {
    char text[160];
    snprintf(text, sizeof text, "%s must be an array of uint64", name);
    throw nb::type_error(text);
}

// A buffer of native 64-bit words, held while a kernel runs.
class Buffer {
  public:
    Buffer(nb::handle source, const char *name) : name_(name) {
        if (PyObject_GetBuffer(source.ptr(), &view_, PyBUF_RECORDS_RO) != 0) {
            PyErr_Clear();
            refuse_type(name);
        }
        const char *format = view_.format ? view_.format : "B";
        if (*format == '=' || *format == '^') format++;  // how numpy writes the native order of words out of line
        const bool wide = view_.itemsize == 8 && (!strcmp(format, "L") || !strcmp(format, "Q"));
        const bool aligned = reinterpret_cast<uintptr_t>(view_.buf) % alignof(uint64_t) == 0;
        if (wide && aligned) return;
        PyBuffer_Release(&view_);
        if (!wide) refuse_type(name);
        refuse(name, "must lie at a multiple of 8 bytes");
    }
    ~Buffer() { PyBuffer_Release(&view_); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

    const char *name() const { return name_; }
    const Py_buffer &view() const { return view_; }
    const uint64_t *data() const { return static_cast<const uint64_t *>(view_.buf); }
    size_t shape(int axis) const { return static_cast<size_t>(view_.shape[axis]); }

  private:
    Py_buffer view_;
    const char *name_;
};

// Elements end to end, in any shape.
class Words : public Buffer {
  public:
    Words(nb::handle source, const char *name) : Buffer(source, name) {
        if (!PyBuffer_IsContiguous(&view(), 'C')) refuse(name, "must be contiguous, row by row");
    }
    Words(nb::handle source, const char *name, size_t size) : Words(source, name) {
        if (this->size() != size) refuse(name, "has another number of elements");
    }

    size_t size() const { return static_cast<size_t>(view().len) / sizeof(uint64_t); }
    const uint64_t *end() const { return data() + size(); }
};

class OutWords : public Words {
  public:
    OutWords(nb::handle source, const char *name, size_t size) : Words(source, name, size) {
        if (view().readonly) refuse(name, "must be writeable");
    }

    uint64_t *data() const { return static_cast<uint64_t *>(view().buf); }

    // Refuses overlaps; `same`: except for exactly the same elements.
    const OutWords &apart(const uint64_t *begin, const uint64_t *end, bool same) const {
        const bool overlap = begin < Words::end() && data() < end;
        if (overlap && !(same && begin == data() && end == Words::end()))
            refuse(name(), "must not overlap an input");
        return *this;
    }
    const OutWords &apart(const Words &input) const { return apart(input.data(), input.end(), false); }
    template <typename... Inputs> const OutWords &apart_or_same(const Inputs &...inputs) const {
        (apart(inputs.data(), inputs.end(), true), ...);
        return *this;
    }
};

class Grid : public Buffer {
  public:
    Grid(nb::handle source, const char *name) : Buffer(source, name) {
        if (view().ndim != 2) refuse(name, "must have two dimensions");
        for (int axis = 0; axis < 2; axis++) {
            const Py_ssize_t stride = view().strides[axis];
            if (shape(axis) > 1 && (stride < 0 || stride % 8))
                refuse(name, "must have strides of whole words that are not negative");
        }
    }

    ring::Matrix matrix() const { return {data(), stride(0), stride(1)}; }
    const uint64_t *end() const {
        if (!shape(0) || !shape(1)) return data();
        return data() + (shape(0) - 1) * stride(0) + (shape(1) - 1) * stride(1) + 1;
    }

  private:
    size_t stride(int axis) const {
        return shape(axis) > 1 ? static_cast<size_t>(view().strides[axis]) / sizeof(uint64_t) : 0;
    }
};

// Lets go of the GIL for work worth the hand-over: a thread that gave it up may wait for it for milliseconds.
class Unlocked {
  public:
    explicit Unlocked(size_t work) : state_(work >= 1 << 14 ? PyEval_SaveThread() : nullptr) {}
    ~Unlocked() {
        if (state_) PyEval_RestoreThread(state_);
    }
    Unlocked(const Unlocked &) = delete;
    Unlocked &operator=(const Unlocked &) = delete;

  private:
    PyThreadState *state_;
};

const ring::Steps &steps(const char *path) { return *choose(path, choices).steps; }

void matmul(const char *path, nb::handle left, nb::handle right, bool accumulate, nb::handle result) {
    const auto &kernels = choose(path, choices);
    const Grid a(left, "a"), b(right, "b");
    const ring::Sizes sizes{a.shape(0), a.shape(1), b.shape(1)};
    if (b.shape(0) != sizes.k) refuse("b", "must have as many rows as a has columns");
    const OutWords out(result, "out", sizes.n * sizes.m);
    if (out.view().ndim != 2 || out.shape(0) != sizes.n) refuse("out", "must have a row for each of a's");
    out.apart(a.data(), a.end(), false).apart(b.data(), b.end(), false);
    bool done;
    {
        const Unlocked unlocked(sizes.n * sizes.k * sizes.m / 4);
        done = kernels.matmul(a.matrix(), b.matrix(), sizes, accumulate, out.data());
    }
    if (!done) throw std::bad_alloc();
}

void product(const char *path, nb::handle a0, nb::handle a1, nb::handle b0, nb::handle b1, nb::handle result) {
    const auto &kernels = steps(path);
    const Words x0(a0, "x0");
    const size_t n = x0.size();
    const Words x1(a1, "x1", n), y0(b0, "y0", n), y1(b1, "y1", n);
    const OutWords out(result, "out", n);
    out.apart_or_same(x0, x1, y0, y1);
    const Unlocked unlocked(n);
    kernels.product(n, x0.data(), x1.data(), y0.data(), y1.data(), out.data());
}

void add_masks(const char *path, nb::handle values, nb::handle added, nb::handle taken, nb::handle result) {
    const auto &kernels = steps(path);
    const Words x(values, "x");
    const size_t n = x.size();
    const Words plus(added, "plus", n), minus(taken, "minus", n);
    const OutWords out(result, "out", n);
    out.apart_or_same(x, plus, minus);
    const Unlocked unlocked(n);
    kernels.add_masks(n, x.data(), plus.data(), minus.data(), out.data());
}

void planes(const char *path, nb::handle values, size_t count, nb::handle result) {
    const auto &kernels = steps(path);
    if (count < 1 || count > ring::word_bits) refuse("count", "must be 1 to 64");
    const Words x(values, "x");
    const OutWords out(result, "out", count * words(x.size()));
    out.apart(x);
    const Unlocked unlocked(x.size());
    kernels.planes(x.size(), x.data(), count, out.data());
}

void plane(const char *path, nb::handle values, size_t bit, nb::handle result) {
    const auto &kernels = steps(path);
    if (bit >= ring::word_bits) refuse("bit", "must be 0 to 63");
    const Words x(values, "x");
    const OutWords out(result, "out", words(x.size()));
    out.apart(x);
    const Unlocked unlocked(x.size());
    kernels.plane(x.size(), x.data(), bit, out.data());
}

void from_planes(const char *path, nb::handle bits, nb::handle result) {
    const auto &kernels = steps(path);
    const Words planes(bits, "planes"), every(result, "out");
    const size_t n = every.size();
    if (planes.view().ndim != 2) refuse("planes", "must have two dimensions");
    const size_t count = planes.shape(0);
    if (count < 1 || count > ring::word_bits) refuse("planes", "must be 1 to 64");
    if (planes.shape(1) != words(n)) refuse("planes", "must have one word for 64 elements");
    const OutWords out(result, "out", n);
    out.apart(planes);
    const Unlocked unlocked(n);
    kernels.from_planes(n, planes.data(), count, out.data());
}

void conjunction(const char *path, nb::handle a, nb::handle b, nb::handle c, nb::handle d, nb::handle added,
                 nb::handle taken, nb::handle result) {
    const auto &kernels = steps(path);
    const Words xa(a, "xa");
    const size_t n = xa.size();
    const Words xb(b, "xb", n), ya(c, "ya", n), yb(d, "yb", n), plus(added, "plus", n), minus(taken, "minus", n);
    const OutWords out(result, "out", n);
    out.apart_or_same(xa, xb, ya, yb, plus, minus);
    const Unlocked unlocked(n);
    kernels.conjunction(n, xa.data(), xb.data(), ya.data(), yb.data(), plus.data(), minus.data(), out.data());
}

void majority(const char *path, nb::handle a, nb::handle b, nb::handle c, nb::handle d, nb::handle e, nb::handle f,
              nb::handle added, nb::handle taken, nb::handle result) {
    const auto &kernels = steps(path);
    const Words ua(a, "ua");
    const size_t n = ua.size();
    const Words ub(b, "ub", n), va(c, "va", n), vb(d, "vb", n), ca(e, "ca", n), cb(f, "cb", n);
    const Words plus(added, "plus", n), minus(taken, "minus", n);
    const OutWords out(result, "out", n);
    out.apart_or_same(ua, ub, va, vb, ca, cb, plus, minus);
    const Unlocked unlocked(n);
    kernels.majority(n, ua.data(), ub.data(), va.data(), vb.data(), ca.data(), cb.data(), plus.data(), minus.data(),
                     out.data());
}

void truncate_share(const char *path, nb::handle s, nb::handle d, nb::handle e, nb::handle t, nb::handle c,
                    size_t fraction, bool lead, nb::handle m, nb::handle result) {
    const auto &kernels = steps(path);
    if (fraction < 1 || fraction > 62) refuse("fraction", "must be 1 to 62");
    const Words share(s, "s");
    const size_t n = share.size(), w = words(n);
    const Words own(d, "own", w), other(e, "other", w), triple(t, "triple", w), shared(c, "c", n), mask(m, "mask", n);
    const OutWords out(result, "out", n);
    out.apart_or_same(share, shared, mask).apart(own).apart(other).apart(triple);
    const ring::Truncation truncation{share.data(), own.data(),  other.data(), triple.data(),
                                      shared.data(), mask.data(), fraction,     lead};
    const Unlocked unlocked(n);
    kernels.truncate_share(n, truncation, out.data());
}

void select_deal(const char *path, nb::handle values, nb::handle plane, nb::handle w_first, nb::handle c_first,
                 nb::handle added, nb::handle taken, nb::handle w_second, nb::handle c_second, nb::handle result) {
    const auto &kernels = steps(path);
    const Words u(values, "u");
    const size_t n = u.size();
    const Words bits(plane, "bits", words(n)), w0(w_first, "w0", n), c0(c_first, "c0", n);
    const Words plus(added, "plus", n), minus(taken, "minus", n);
    const OutWords w1(w_second, "w1", n), c1(c_second, "c1", n), z(result, "z", n);
    for (const OutWords *out : {&w1, &c1, &z}) out->apart_or_same(u, w0, c0, plus, minus).apart(bits);
    w1.apart(c1), c1.apart(z), z.apart(w1);
    const Unlocked unlocked(n);
    kernels.select_deal(n, u.data(), bits.data(), w0.data(), c0.data(), plus.data(), minus.data(), w1.data(),
                        c1.data(), z.data());
}

void select_take(const char *path, nb::handle values, nb::handle plane, nb::handle w_part, nb::handle c_part, bool lead,
                 nb::handle added, nb::handle taken, nb::handle result) {
    const auto &kernels = steps(path);
    const Words v(values, "v");
    const size_t n = v.size();
    const Words bits(plane, "bits", words(n)), w(w_part, "w", n), c(c_part, "c", n);
    const Words plus(added, "plus", n), minus(taken, "minus", n);
    const OutWords z(result, "z", n);
    z.apart_or_same(v, w, c, plus, minus).apart(bits);
    const Unlocked unlocked(n);
    kernels.select_take(n, v.data(), bits.data(), w.data(), c.data(), lead, plus.data(), minus.data(), z.data());
}

}  // namespace

nb::list ring_paths() { return names(choices); }

void add_ring(nb::module_ &m) {
    m.def("ring_matmul", &matmul);
    m.def("ring_product", &product);
    m.def("ring_add_masks", &add_masks);
    m.def("ring_planes", &planes);
    m.def("ring_plane", &plane);
    m.def("ring_from_planes", &from_planes);
    m.def("ring_conjunction", &conjunction);
    m.def("ring_majority", &majority);
    m.def("ring_truncate_share", &truncate_share);
    m.def("ring_select_deal", &select_deal);
    m.def("ring_select_take", &select_take);
}

}  // namespace veilsum::bind
