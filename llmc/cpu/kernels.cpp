// The table of one instruction set: its only symbol that other object files can refer to (Makefile).
#include "llmc/cpu/kernels.h"

namespace llmc::cpu::LLMC_ISA {

#define LLMC_OP(name, parameters, arguments) .name = name,
const Kernels kernels = {LLMC_CPU_OPS(LLMC_OP)};
#undef LLMC_OP

}  // namespace llmc::cpu::LLMC_ISA
