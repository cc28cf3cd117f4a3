// The ops of llmc/ops/ops.h. Each calls the kernel of the chosen instruction set.
#include "llmc/cpu/dispatch.h"
#include <cstdlib>
#include <string>
#include <string_view>
#include "llmc/core/error.h"
#include "llmc/cpu/kernels.h"

// The sets that were compiled, from the Makefile: ISA(avx2) ISA(avx512) ...
#ifndef LLMC_CPU_ISAS
#define LLMC_CPU_ISAS ISA(generic)
#endif

namespace llmc {
namespace cpu {

#define ISA(name)                 \
    namespace name {              \
    extern const Kernels kernels; \
    }
LLMC_CPU_ISAS
#undef ISA

namespace {

struct Choice {
    const char* name;
    const Kernels* kernels;
};
#define ISA(name) {#name, &name::kernels},
constexpr Choice kCompiled[] = {LLMC_CPU_ISAS};  // the best one last
#undef ISA

// Whether this machine has the instructions that the Makefile's flags for a set allow the compiler to use.
bool runs_here(std::string_view name) {
    if (name == "generic") return true;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
    if (name == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (name == "avx512") return avx512;
    if (name == "avx512_bf16")
        return avx512 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
#endif
    return false;
}

Choice choose() {
    const char* wanted = std::getenv("LLMC_CPU_ISA");
    Choice best{};
    std::string names;
    for (const Choice& choice : kCompiled) {
        if (!runs_here(choice.name)) continue;
        if (wanted && wanted == std::string_view(choice.name)) return choice;
        names += (names.empty() ? "" : ", ") + std::string(choice.name);
        best = choice;
    }
    if (wanted && *wanted)
        fail_usage("LLMC_CPU_ISA is \"", wanted, "\", this machine has ", names,
                   ": set it to one of these or unset it");
    if (!best.kernels) fail("none of the instruction sets that were compiled runs on this machine: run make here");
    return best;
}

const Choice& chosen() {
    static const Choice choice = choose();
    return choice;
}

}  // namespace

const char* instruction_set() { return chosen().name; }

}  // namespace cpu

#define LLMC_OP(name, parameters, arguments) \
    void name parameters { cpu::chosen().kernels->name arguments; }
LLMC_CPU_OPS(LLMC_OP)
#undef LLMC_OP

}  // namespace llmc
