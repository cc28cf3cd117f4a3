// Ends the process with a message if the processor cannot run this build. All other files are compiled for x86-64-v3,
// this one for every x86-64 (Makefile). It uses no library templates, because the linker could take them from another
// file.
#if defined(LLMC_NEEDS_X86_64_V3)
#include <cpuid.h>
#include <errno.h>
#include <unistd.h>
#include <cstring>

namespace {

void say(const char* text) { [[maybe_unused]] const auto written = write(STDERR_FILENO, text, __builtin_strlen(text)); }

bool bit_of(unsigned leaf, unsigned bit) {  // in ecx
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(leaf, &a, &b, &c, &d) && (c >> bit & 1);
}

// Runs before all other constructors, including those of C++ objects.
__attribute__((constructor(101))) void require_x86_64_v3() {
    __builtin_cpu_init();
    const struct {
        const char* name;
        bool here;
    } needed[] = {
        {" AVX2", bool(__builtin_cpu_supports("avx2"))},  // also tests whether the system saves its registers
        {" FMA", bool(__builtin_cpu_supports("fma"))},
        {" BMI", bool(__builtin_cpu_supports("bmi"))},
        {" BMI2", bool(__builtin_cpu_supports("bmi2"))},
        {" F16C", bit_of(1, 29)},
        {" MOVBE", bit_of(1, 22)},
        {" LZCNT", bit_of(0x80000001, 5)},
    };
    bool all = true;
    for (const auto& feature : needed) all = all && feature.here;
    if (all) return;
    say(program_invocation_short_name);
    say(": llmc is compiled for x86-64-v3 (Intel since Haswell, AMD since Zen); this processor lacks");
    for (const auto& feature : needed)
        if (!feature.here) say(feature.name);
    say(". Compile it on this machine: make ARCH=-march=native ISAS=generic\n");
    _exit(1);
}

}  // namespace
#endif
