// Which instruction set's kernels run.
#pragma once

namespace llmc::cpu {

// Its name: "avx2", "avx512" or "avx512_bf16", or "generic" on processors other than x86-64. It is chosen at the first
// call of this function or of an op: the best one that this machine can run, or the environment variable LLMC_CPU_ISA.
// A value that this machine cannot run is a usage error that lists those that it can.
const char* instruction_set();

}  // namespace llmc::cpu
