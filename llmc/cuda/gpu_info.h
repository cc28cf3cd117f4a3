// What is known about GPUs before a kernel runs: which of them this program has code for, which driver that needs, and
// what NVIDIA's datasheets promise.
#pragma once
#include <string>

#include "llmc/core/tensor.h"
#include "llmc/cuda/host.h"

namespace llmc::cuda {

// Compute capabilities that the kernels are compiled for (CUDA_ARCH), such as "80 90a", beside PTX for 8.0.
const char* built_architectures();
// Whether code compiled for `architectures` runs on a GPU: code for 8.0 also on 8.6, for 9.0a only on 9.0. Otherwise the
// driver compiles the PTX, which takes a while, once.
bool has_code_for(const std::string& architectures, int capability);

// Why wgmma cannot be used; empty if it can. It is part of compute capability 9.0 only, and of code for 9.0a only.
std::string wgmma_problem(const std::string& architectures, int capability);

std::string version_string(int version);  // 12040: "12.4"
// Why the driver cannot run this program, and what to do; empty if it can. Versions as CUDA gives them.
std::string driver_problem(int driver, int runtime, bool needs_ptx);
// What to do about an error of CUDA; empty if CUDA's own text says enough.
std::string remedy(cudaError_t status, int driver, int runtime, int capability);

// Whether an error happened inside a kernel: it is reported by a later call, whichever that is.
bool is_of_kernel(cudaError_t status);

// Dense FLOP/s of the GPU's datasheet, in bf16 with sums in fp32 on tensor cores or in fp32 without; 0: unknown GPU.
double datasheet_flops(const std::string& gpu, DType dtype);

}  // namespace llmc::cuda
