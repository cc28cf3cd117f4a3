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

namespace llmc::device {

// For what must be settled before the process's libraries are loaded. Call first in main; may start the program anew.
void prepare_process(char** argv);

// Chooses the device and the number of host threads (0: one per core this process may use). Call once, before anything
// else here.
void initialize(int threads);

std::string name();     // "cpu (Intel Xeon ..., 2 threads, avx512)"
std::string backend();  // "cpu", "cuda" or "emulated"
int threads();
size_t memory_total();  // bytes a model may hope for
size_t
memory_available();      // of those, what a model may take now: less what is in use, and what ops take for themselves
size_t logits_budget();  // bytes of logits that are worth keeping at a time: enough rows for efficient products
int vocabulary_tile();   // rows of the head and columns of logits come in multiples of this
// The rate of the backend's own matmul_forward on large square matrices, FLOP/s: the best of several calls.
double measure_matmul_flops(DType dtype);
// The 100% of "percent of peak", FLOP/s: the rate above, measured once for each element type and kept (peak.cpp). `seen`
// is a rate that something else reached. If it is higher, the machine was busy when the peak was measured: it is measured
// again, and the result is at least `seen`.
double peak_flops(DType dtype, double seen = 0);

// 64-byte aligned (256 on GPUs), zeroed. Throws Error naming the size when there is not enough.
void* allocate(size_t bytes);
void deallocate(void* pointer);
void* allocate_host(size_t bytes);  // page-locked where that speeds copies up
void deallocate_host(void* pointer);

// The host memory may be reused when it returns; on a GPU the copy itself may still be on its way (two page-locked
// buffers take turns).
void copy_to_device(void* device, const void* host, size_t bytes);
void copy_to_host(void* host, const void* device, size_t bytes);  // returns when the bytes are there
void fill_zero(void* device, size_t bytes);
void synchronize();

// How long enqueued work takes on the device.
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

// Work that is enqueued again and again in the same way, such as a micro-batch. A GPU records it once and replays it,
// which spares the launch of every single kernel; elsewhere it is just done.
class Recording {
public:
    Recording();
    ~Recording();
    // Enqueues what body() enqueues. body may depend on nothing but the contents of device memory and `key`: when the
    // key is the last call's, a recorded copy may run in its place.
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
