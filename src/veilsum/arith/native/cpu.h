// What this processor and its operating system allow, as the names of code paths.
#pragma once

namespace veilsum::cpu {

// A path is a promise about instructions; each includes the ones before it.
enum class Path { portable, avx2, avx512, ifma, amx };
inline constexpr int path_count = 5;

const char *name(Path path);

// By CPUID and XCR0 (the operating system must save the wide registers, too), which are read once. The first
// question for `amx` asks the operating system to let this process use tile registers.
bool supports(Path path);

// The single features that `veilsum doctor` shows.
struct Feature {
    const char *name;
    bool present;
};
inline constexpr int feature_count = 14;
void features(Feature (&out)[feature_count]);

}  // namespace veilsum::cpu
