#include "llmc/cuda/gpu_info.h"

#include <cstdlib>
#include <sstream>

#ifndef LLMC_CUDA_ARCH
#define LLMC_CUDA_ARCH "80 90a"  // in the emulator
#endif

namespace llmc::cuda {
namespace {

struct Datasheet {
    const char* name;   // words of what the driver calls the GPU; the first match counts
    double bf16, fp32;  // TFLOP/s
};
// NVIDIA's datasheets and architecture whitepapers: dense bf16 with fp32 accumulation, fp32 without tensor cores.
constexpr Datasheet kDatasheets[] = {
    {"GB200", 2500, 80},    {"B200", 2250, 75},        {"GH200", 989.4, 66.9},     {"H200 NVL", 835.5, 60},
    {"H200", 989.4, 66.9},  {"H100 PCIe", 756, 51},    {"H100 NVL", 835.5, 60},    {"H100", 989.4, 66.9},
    {"H800 PCIe", 756, 51}, {"H800", 989.4, 66.9},     {"A100", 312, 19.5},        {"A800", 312, 19.5},
    {"A30", 165, 10.3},     {"A10", 125, 31.2},        {"A40", 149.7, 37.4},       {"L40S", 362.05, 91.6},
    {"L40", 181.05, 90.5},  {"L4", 121, 30.3},         {"RTX A6000", 154.8, 38.7}, {"RTX 6000 Ada", 364.2, 91.1},
    {"RTX 3090", 71, 35.6}, {"RTX 4090", 165.2, 82.6}, {"RTX 5090", 209.5, 104.8},
};
// Others of these names, with other rates.
constexpr const char* kOther[] = {"Laptop", "Max-Q", "MIG", "Ti", "D"};

// Whether `words` stand in `name` as whole words, such as A10 in "NVIDIA A10", not in "NVIDIA A100-SXM4-80GB".
bool contains_words(const std::string& name, const std::string& words) {
    for (size_t at = name.find(words); at != std::string::npos; at = name.find(words, at + 1)) {
        const size_t end = at + words.size();
        const auto ends_word = [](char c) { return c == ' ' || c == '-'; };
        if ((at == 0 || ends_word(name[at - 1])) && (end == name.size() || ends_word(name[end]))) return true;
    }
    return false;
}

}  // namespace

const char* built_architectures() { return LLMC_CUDA_ARCH; }

bool has_code_for(const std::string& architectures, int capability) {
    std::istringstream words(architectures);
    for (std::string word; words >> word;) {
        char* suffix = nullptr;
        const int built = int(std::strtol(word.c_str(), &suffix, 10));
        if (*suffix ? built == capability : built / 10 == capability / 10 && built <= capability) return true;
    }
    return false;
}

std::string wgmma_problem(const std::string& architectures, int capability) {
    if (capability != 90)
        return str("wgmma is an instruction of compute capability 9.0, this GPU has ", capability / 10, ".",
                   capability % 10);
    // Beside 9.0a, code for 9.0 or for 8.x would run here as well, and the driver prefers that of 9.0.
    const auto has = [&](const std::string& word) {
        return (" " + architectures + " ").find(" " + word + " ") != std::string::npos;
    };
    if (!has("90a") || has("90"))
        return str("this program has code for compute capabilities ", architectures,
                   ", wgmma needs code for 9.0a and not for 9.0: build with make CUDA_ARCH=90a");
    return "";
}

std::string version_string(int version) { return str(version / 1000, ".", version % 1000 / 10); }

std::string driver_problem(int driver, int runtime, bool needs_ptx) {
    const std::string have = version_string(driver), built = version_string(runtime);
    if (driver / 1000 < runtime / 1000)
        return str(
            "the NVIDIA driver supports CUDA ", have, ", this program was built with ", built,
            ": update the driver (CUDA 12 needs 525 or newer, CUDA 13 needs 580), or build with an older toolkit");
    if (driver < runtime && needs_ptx)
        return str("this program has no code for this GPU (only for ", built_architectures(),
                   "), and the NVIDIA driver, for CUDA ", have, ", cannot compile its PTX of CUDA ", built,
                   ": build with CUDA_ARCH for this GPU, or update the driver");
    return "";
}

std::string remedy(cudaError_t status, int driver, int runtime, int capability) {
    if (status == cudaErrorNoKernelImageForDevice)
        return str(" (built for compute capabilities ", built_architectures(), ", this GPU has ", capability,
                   ": build with make CUDA_ARCH=", capability, ")");
    if (status == cudaErrorUnsupportedPtxVersion)
        return str(" (the driver is for CUDA ", version_string(driver), ", the program was built with ",
                   version_string(runtime), ": update the driver, build with make CUDA_ARCH=", capability,
                   ", or with a toolkit that is not newer than the driver)");
    return "";
}

bool is_of_kernel(cudaError_t status) {
    return status == cudaErrorIllegalAddress || status == cudaErrorMisalignedAddress ||
           status == cudaErrorLaunchFailure;
}

double datasheet_flops(const std::string& gpu, DType dtype) {
    for (const char* other : kOther)
        if (contains_words(gpu, other)) return 0;
    for (const Datasheet& d : kDatasheets)
        if (contains_words(gpu, d.name)) return 1e12 * (dtype == DType::bf16 ? d.bf16 : d.fp32);
    return 0;
}

}  // namespace llmc::cuda
