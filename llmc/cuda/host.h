// Shared by the host code of the CUDA ops: launches, the stream, scratch memory.
#pragma once
#include <initializer_list>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

#include "llmc/core/error.h"
#include "llmc/cuda/gpu.h"
#ifndef __CUDACC__
#include "llmc/emulator/limits.h"
#include "llmc/emulator/runtime.h"
#endif

namespace llmc::cuda {

// Throws Error with CUDA's reason; `what` says what failed: "cannot copy to the device".
void check(cudaError_t status, const std::string& what);

cudaStream_t stream();  // on which everything is enqueued, in order
int multiprocessors();
int compute_capability();  // 80, 86, 90, ...
size_t shared_limit();     // bytes of shared memory that a block can have

struct Launch {
    dim3 grid, block;
    size_t shared = 0;  // bytes
    int cluster = 1;    // blocks
    std::source_location where = std::source_location::current();
};
// Throws Error that names the launch. With LLMC_CUDA_SYNC=1 in the environment it waits for the kernel, so that an
// error of the kernel names it too.
void check_launch(cudaError_t status, const void* kernel, const Launch& shape);

#ifdef __CUDACC__
template <class... Parameters>
void allow_shared(void (*kernel)(Parameters...), size_t bytes) {
    if (bytes > (48 << 10))  // CUDA allows more only on request
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
              "a kernel needs more shared memory than the GPU has");
}

// kernel<<<grid, block, shared, stream>>>(arguments...) as a function.
template <class... Parameters, class... Arguments>
void launch(const Launch& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared;
    config.stream = stream();
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = unsigned(shape.cluster);
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    if (shape.cluster > 1) config.attrs = &cluster, config.numAttrs = 1;
    allow_shared(kernel, shape.shared);
    check_launch(cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...),
                 reinterpret_cast<const void*>(kernel), shape);
}

// Blocks of this size that one multiprocessor runs at a time.
template <class... Parameters>
int blocks_per_multiprocessor(void (*kernel)(Parameters...), int threads, size_t shared) {
    int blocks = 0;
    allow_shared(kernel, shared);
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared),
          "a kernel's occupancy is unknown");
    return blocks > 0 ? blocks : 1;
}
#else
template <class... Parameters, class... Arguments>
void launch(const Launch& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
    auto call = [kernel, ... values = Parameters(std::forward<Arguments>(arguments))] { kernel(values...); };
    std::vector<const void*> pointers;
    const auto add = [&]<class T>(const T& argument) {
        if constexpr (std::is_pointer_v<T>) pointers.push_back(argument);
    };
    (add(Parameters(arguments)), ...);
    check_launch(emulator::enqueue_grid(stream(),
                                        {shape.grid, shape.block, shape.shared, shape.cluster, shape.where,
                                         reinterpret_cast<const void*>(kernel)},
                                        std::move(call), std::move(pointers)),
                 reinterpret_cast<const void*>(kernel), shape);
}
template <class... Parameters>
int blocks_per_multiprocessor(void (*)(Parameters...), int threads, size_t shared) {
    return emulator::resident_blocks(emulator::limits(compute_capability()), threads, shared);
}
#endif

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Memory that an op's kernels use between each other, valid until the next op: everything is on one stream, in order,
// so one buffer is enough. It grows when an op needs more, which waits for the device; after the first step it never
// does.
class Workspace {
public:
    explicit Workspace(const std::vector<size_t>& bytes);  // of its parts
    Workspace(std::initializer_list<size_t> bytes) : Workspace(std::vector<size_t>(bytes)) {}
    template <class T>
    T* part(int i) const {
        return reinterpret_cast<T*>(base_ + offsets_[size_t(i)]);
    }

private:
    char* base_;
    std::vector<size_t> offsets_;
};
void reserve_workspace(size_t bytes);  // so that it does not have to grow
// Counters of the order in which blocks add to a product: one for each block that the GPU runs at a time, all 0 between
// kernels.
uint32_t* turns();
// Whether products may run on wgmma: the GPU and this program's code for it have it, and the user did not choose mma.
bool has_wgmma();
bool wgmma_is_chosen();           // also where mma.sync would be faster
uint64_t workspace_generation();  // changes with each growth: recorded work may hold the old address

}  // namespace llmc::cuda
