// MPI, loaded when a run has several processes: a program that was built without MPI runs with Open MPI or MPICH, and
// without either. There is no common binary interface before MPI 5: handles are pointers to objects in Open MPI and
// numbers in MPICH, so each has its table (mpi_library.cpp).
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace llmc {

enum class MpiKind { open_mpi, mpich };

// Blocking collectives on all processes, in host memory. Errors are thrown with MPI's text. All calls must come from one
// thread, that of init().
class MpiLibrary {
public:
    virtual ~MpiLibrary() = default;
    // Error that names what to install if it cannot be loaded. LLMC_MPI_LIBRARY: another file.
    static std::unique_ptr<MpiLibrary> load(MpiKind kind);

    virtual void init() = 0;
    virtual void finalize() = 0;
    virtual int rank() = 0;
    virtual int size() = 0;
    virtual std::string version() = 0;

    // Counts are of elements; at most 2^31 - 1.
    virtual void all_reduce(float* data, int count) = 0;                                               // sum, in place
    virtual void reduce_scatter(const float* data, float* own, const std::vector<int>& counts) = 0;    // sum
    virtual void all_gather(void* data, const std::vector<int>& counts, size_t element) = 0;           // in place
    virtual void gather_to(void* data, const std::vector<int>& counts, size_t element, int root) = 0;  // in place
    virtual void broadcast(void* data, int count, size_t element, int root) = 0;
    virtual void barrier() = 0;
};

}  // namespace llmc
