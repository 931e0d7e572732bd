#include "cpu.h"

#ifdef VEILSUM_X86
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace veilsum::cpu {

namespace {

// Bits of CPUID leaf 7: ebx, ecx, edx; and what XCR0 says about the register files.
struct Registers {
    unsigned leaf1_ecx = 0, ebx = 0, ecx = 0, edx = 0, xcr0 = 0;
};

// CPUID costs microseconds in a virtual machine: kernels for small arrays cannot pay it on each call.
Registers read() {
    Registers r;
#ifdef VEILSUM_X86
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid(1, &a, &b, &c, &d)) r.leaf1_ecx = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        r.ebx = b;
        r.ecx = c;
        r.edx = d;
    }
    if (r.leaf1_ecx & (1u << 27)) {  // OSXSAVE: xgetbv may be executed
        unsigned high = 0;
        __asm__ volatile("xgetbv" : "=a"(r.xcr0), "=d"(high) : "c"(0));
    }
#endif
    return r;
}

const Registers &registers() {
    static const Registers once = read();
    return once;
}

// Linux saves tile registers only for processes that asked (Documentation/arch/x86/xstate.rst); the permission
// holds for all threads and cannot be given back.
bool may_use_tiles() {
#if defined(VEILSUM_X86) && defined(__linux__)
    constexpr long request_permission = 0x1023, tile_data = 18;
    static const bool allowed = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    return allowed;
#else
    return false;
#endif
}

bool bit(unsigned word, int position) { return (word >> position) & 1u; }

}  // namespace

void features(Feature (&out)[feature_count]) {
    const Registers &r = registers();
    const bool ymm = (r.xcr0 & 0x6u) == 0x6u;     // xmm and the upper halves of ymm
    const bool zmm = (r.xcr0 & 0xe6u) == 0xe6u;   // mask registers and both parts of zmm, too
    const bool amx = (r.xcr0 & 0x60000u) == 0x60000u;
    const Feature all[feature_count] = {
        {"avx2", ymm && bit(r.ebx, 5)},
        {"bmi2", bit(r.ebx, 8)},
        {"adx", bit(r.ebx, 19)},
        {"sha", bit(r.ebx, 29)},
        {"avx512f", zmm && bit(r.ebx, 16)},
        {"avx512dq", zmm && bit(r.ebx, 17)},
        {"avx512bw", zmm && bit(r.ebx, 30)},
        {"avx512vl", zmm && bit(r.ebx, 31)},
        {"avx512ifma", zmm && bit(r.ebx, 21)},
        {"avx512vbmi2", zmm && bit(r.ecx, 6)},
        {"vaes", ymm && bit(r.ecx, 9)},
        {"avx512vnni", zmm && bit(r.ecx, 11)},
        {"amx-tile", amx && bit(r.edx, 24)},
        {"amx-int8", amx && bit(r.edx, 25)},
    };
    for (int i = 0; i < feature_count; i++) out[i] = all[i];
}

const char *name(Path path) {
    constexpr const char *names[path_count] = {"portable", "avx2", "avx512", "ifma", "amx"};
    return names[static_cast<int>(path)];
}

bool supports(Path path) {
    const Registers &r = registers();
    const bool ymm = (r.xcr0 & 0x6u) == 0x6u, zmm = (r.xcr0 & 0xe6u) == 0xe6u;
    const bool avx2 = ymm && bit(r.ebx, 5) && bit(r.ebx, 8);
    const bool avx512 = avx2 && zmm && bit(r.ebx, 16) && bit(r.ebx, 17) && bit(r.ebx, 30) && bit(r.ebx, 31);
    const bool ifma = avx512 && bit(r.ebx, 21);
    const bool tiles = (r.xcr0 & 0x60000u) == 0x60000u && bit(r.edx, 24) && bit(r.edx, 25);
    switch (path) {
        case Path::portable: return true;
        case Path::avx2: return avx2;
        case Path::avx512: return avx512;
        case Path::ifma: return ifma;
        case Path::amx: return ifma && tiles && may_use_tiles();
    }
    return false;
}

}  // namespace veilsum::cpu
