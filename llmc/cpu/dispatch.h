// Which instruction set's kernels run.
#pragma once

namespace llmc::cpu {

// Its name: "avx2", "avx512", "avx512_bf16", or "generic" on other processors than x86-64. Chosen at the first call of
// this or of any op: the best that this machine has, or LLMC_CPU_ISA of the environment. A usage error names a value that
// this machine cannot run and lists those that it can.
const char* instruction_set();

}  // namespace llmc::cpu
