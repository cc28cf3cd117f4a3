// Collectives of the processes of a run on tensors in device memory.
//
// An operation starts after all work that is enqueued on the device at the time of the call, and goes on while the
// program computes. All ranks start the same operations in the same order. Same inputs, same number of ranks: same bits.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "llmc/core/element_range.h"
#include "llmc/core/tensor.h"

namespace llmc {

class Control;
class Mpi;

// The parts of `elements` that the ranks own, one after the other, at multiples of 16 elements.
std::vector<ElementRange> parts_of(int64_t elements, int ranks);

class Comm {
public:
    virtual ~Comm() = default;
    Comm(int rank, int size) : rank_(rank), size_(size) {}
    int rank() const { return rank_; }
    int size() const { return size_; }
    virtual std::string name() const = 0;  // "Open MPI v4.1.4", "NCCL 2.28.9"

    // Handles, for wait().
    virtual int64_t all_reduce(Tensor data) = 0;  // data = its sum over the ranks; fp32
    // The same, but only part `rank` of the data is the sum; what the other parts hold is not known.
    virtual int64_t reduce_scatter(Tensor data, const std::vector<ElementRange>& parts) = 0;
    // Part r of the data comes from rank r. fp32 or bf16.
    virtual int64_t all_gather(Tensor data, const std::vector<ElementRange>& parts) = 0;
    // The same, but only rank `root` gets the other parts.
    virtual int64_t gather_to(Tensor data, const std::vector<ElementRange>& parts, int root) = 0;
    virtual int64_t broadcast(Tensor data, int root) = 0;
    // Work that is enqueued on the device after this sees the result of the operation.
    virtual void wait(int64_t handle) = 0;

    // Numbers of the host: those of rank 0, then those of rank 1, ...; all ranks give as many. Waits.
    virtual std::vector<double> gather(std::span<const double> own) = 0;
    virtual void barrier() = 0;

    // Seconds of all operations on tensors so far, and those of them that wait() had to wait.
    struct Times {
        double all = 0, waited = 0;
        double bytes = 0;  // of the tensors
        Times operator-(const Times& other) const {
            return {all - other.all, waited - other.waited, bytes - other.bytes};
        }
    };
    virtual Times times() = 0;

    // Of this program's backend (llmc/comm/host_comm.cpp, nccl_comm.cu). mpi: null if MPI is not used.
    static std::unique_ptr<Comm> open(Control& control, Mpi* mpi);
    static bool needs_mpi();  // this backend's collectives are MPI's

private:
    int rank_, size_;
};

}  // namespace llmc
