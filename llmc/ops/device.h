// Memory and order of execution: one half of a backend (the other is ops.h). Everything is enqueued on one stream, in
// order. On the CPU "device" memory is host memory and every call has finished when it returns.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include "llmc/core/tensor.h"

namespace llmc {

// The tensor cores' instructions that a GPU computes products of bf16 matrices with.
enum class MatmulKernel {
    automatic,  // whichever should be faster for the sizes
    mma,        // mma.sync, which all supported GPUs have
    wgmma,      // of Hopper, compute capability 9.0; mma where rows of the result are not multiples of 16 bytes
};

template <>
struct Names<MatmulKernel> {
    static constexpr std::pair<const char*, MatmulKernel> list[] = {
        {"auto", MatmulKernel::automatic}, {"mma", MatmulKernel::mma}, {"wgmma", MatmulKernel::wgmma}};
};

}  // namespace llmc

namespace llmc::device {

// Settings that have to be made before libraries are loaded. Call first in main; may start the program again.
void prepare_process(char** argv);

// The place of this process among those of a run on this host.
struct Place {
    int local_rank = 0;    // chooses the GPU
    int sharing_cpus = 1;  // processes that divide the CPUs of this one, itself included
};
// Chooses the device and the number of host threads (0: one per core this process may use, or its share of them). Call
// once, before anything else here.
void initialize(int threads, const Place& place = {});

// Until the next call; a CPU ignores it. Throws Error with the reason if this GPU or program does not have it.
void choose_matmul_kernel(MatmulKernel kernel);

std::string name();     // "cpu (Intel Xeon ..., 2 threads, avx512)"
std::string backend();  // "cpu", "cuda" or "emulated"
int threads();
size_t memory_total();      // bytes of memory of the device
size_t memory_available();  // bytes that a model can take now: without what is in use and what ops need for themselves
// Bytes of scratch memory that an op of a training step of these sizes needs at most, beside the model; 0 on a CPU, where
// each thread has its own. reserve_scratch takes it at once, so that a step cannot fail for want of it.
struct StepSizes {
    int64_t batch, seq_len, width, heads, logits_rows, padded_vocab;
    int64_t tensors, parameters;
    DType dtype;
};
size_t scratch_bytes(const StepSizes& sizes);
void reserve_scratch(size_t bytes);
size_t scratch_reserved();  // reserved, or taken by the largest op so far
size_t logits_budget();     // bytes of logits to keep at a time: enough rows for efficient products
int vocabulary_tile();      // rows of the head and columns of the logits are padded to a multiple of this
// The rate of the backend's own matmul_forward on large square matrices, FLOP/s: the best of several calls.
double measure_matmul_flops(DType dtype);
// What the GPU's datasheet promises for products of this type, FLOP/s; 0 if it is not known, and on a CPU.
double datasheet_flops(DType dtype);
// The 100% of "percent of peak", FLOP/s: the rate above, measured once for each element type and kept (peak.cpp).
// `seen` is a rate that something else reached. If it is higher, the machine was busy when the peak was measured: it is
// measured again, and the result is at least `seen`.
double peak_flops(DType dtype, double seen = 0);

// 64-byte aligned (256 on GPUs), zeroed. Throws Error naming the size when there is not enough.
void* allocate(size_t bytes);
void deallocate(void* pointer);
void* allocate_host(size_t bytes);  // page-locked where that speeds copies up
void deallocate_host(void* pointer);

// The host memory may be reused when it returns. On a GPU the copy itself may still be running (from one of two
// page-locked buffers).
void copy_to_device(void* device, const void* host, size_t bytes);
void copy_to_host(void* host, const void* device, size_t bytes);  // returns when the copy is complete
void fill_zero(void* device, size_t bytes);
void synchronize();

// Measures how long enqueued work takes on the device.
class Stopwatch {
public:
    Stopwatch();
    ~Stopwatch();
    void start();      // enqueued
    void stop();       // enqueued
    double seconds();  // between the two; waits for the device

private:
    struct State;
    std::unique_ptr<State> state_;
};

// Work that is enqueued many times in the same way, such as a micro-batch. A GPU records it once and replays it, which
// saves the launch of every single kernel. Other backends run it each time.
class Recording {
public:
    Recording();
    ~Recording();
    // Enqueues what body() enqueues. body may depend only on the contents of device memory and on `key`: if the key is
    // that of the last call, recorded work may run instead of body.
    void run(uint64_t key, const std::function<void()>& body);

private:
    struct State;
    std::unique_ptr<State> state_;
};

// Owning, movable device memory.
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(size_t bytes) : data_(allocate(bytes)), bytes_(bytes) {}
    Buffer(Buffer&& other) noexcept : data_(other.data_), bytes_(other.bytes_) {
        other.data_ = nullptr;
        other.bytes_ = 0;
    }
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~Buffer() {
        if (data_) deallocate(data_);
    }
    char* data() const { return static_cast<char*>(data_); }
    size_t bytes() const { return bytes_; }

private:
    void* data_ = nullptr;
    size_t bytes_ = 0;
};

}  // namespace llmc::device
