// What the parts of the extension module share: how a path is chosen, how arguments are refused.
#pragma once
#include <nanobind/nanobind.h>

#include <cstring>

#include "cpu.h"

namespace veilsum::bind {

namespace nb = nanobind;
using cpu::Path;

[[noreturn]] inline void refuse(const char *why) { throw nb::value_error(why); }

// A path that this family does not have, or this machine cannot run, never reaches a kernel.
template <typename Kernels> struct Choice {
    Path path;
    const Kernels *kernels;
};

template <typename Kernels, size_t n> const Kernels &choose(const char *path, const Choice<Kernels> (&choices)[n]) {
    for (const auto &choice : choices) {
        if (std::strcmp(path, cpu::name(choice.path)) != 0) continue;
        if (!cpu::supports(choice.path)) refuse("this machine cannot run that path");
        return *choice.kernels;
    }
    refuse("no such path in this family of kernels");
}

template <typename Kernels, size_t n> nb::list names(const Choice<Kernels> (&choices)[n]) {
    nb::list list;
    for (const auto &choice : choices) list.append(cpu::name(choice.path));
    return list;
}

// The ring family, in bind_ring.cpp: its paths and its functions.
nb::list ring_paths();
void add_ring(nb::module_ &module);

}  // namespace veilsum::bind
