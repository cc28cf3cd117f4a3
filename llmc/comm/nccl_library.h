// NCCL's collectives, as much as this project uses: of libnccl.so.2, loaded when a run has several processes, or of the
// emulator, which does them by MPI. Work is enqueued on a CUDA stream. Errors are thrown with NCCL's text.
// https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "llmc/core/element_range.h"
#include "llmc/core/tensor.h"
#include "llmc/cuda/host.h"

namespace llmc {

class Mpi;

class NcclLibrary {
public:
    virtual ~NcclLibrary() = default;
    // mpi: for the emulator. Error that says where NCCL was looked for. LLMC_NCCL_LIBRARY: another file.
    static std::unique_ptr<NcclLibrary> load(Mpi* mpi);

    virtual std::string version() = 0;
    virtual std::string unique_id() = 0;  // made by one process, given to all
    virtual void init(const std::string& unique_id, int size, int rank) = 0;

    virtual void all_reduce(float* data, size_t count, cudaStream_t stream) = 0;                  // sum, in place
    virtual void reduce(float* data, size_t count, int root, cudaStream_t stream) = 0;            // sum, in place
    virtual void reduce_scatter(float* data, size_t count_each, cudaStream_t stream) = 0;         // sum, in place
    virtual void all_gather(void* data, size_t count_each, DType type, cudaStream_t stream) = 0;  // in place
    // The parts are those of the ranks, one after the other; rank `root` gets those of the others.
    virtual void gather_to(void* data, const std::vector<ElementRange>& parts, DType type, int root,
                           cudaStream_t stream) = 0;
    virtual void broadcast(void* data, size_t count, DType type, int root, cudaStream_t stream) = 0;
    // Operations between the two are one.
    virtual void group_start() = 0;
    virtual void group_end() = 0;
};

}  // namespace llmc
