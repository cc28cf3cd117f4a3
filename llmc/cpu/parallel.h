// Work on several threads, and the memory an op needs while it runs.
#pragma once
#include <omp.h>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include "llmc/device.h"

namespace llmc::cpu {

// Runs call() and keeps its exception: none may leave a parallel region.
class Guard {
public:
    template <class Call>
    void run(Call&& call) {
        try {
            call();
        } catch (...) {
#pragma omp critical(llmc_guard)
            error_ = std::current_exception();
        }
    }
    void rethrow() const {
        if (error_) std::rethrow_exception(error_);
    }

private:
    std::exception_ptr error_;
};

// Calls body(begin, end) on contiguous parts of [0, n), one per thread; below `grain` items a thread, fewer threads.
// Only for bodies whose results do not depend on where the parts begin. Inside a parallel region: one call, by the
// calling thread.
template <class Body>
void parallel_for(int64_t n, int64_t grain, Body&& body) {
    int threads = int(std::min<int64_t>(device::threads(), (n + grain - 1) / std::max<int64_t>(grain, 1)));
    if (threads <= 1 || omp_in_parallel()) {
        if (n > 0) body(int64_t{0}, n);
        return;
    }
    Guard guard;
#pragma omp parallel num_threads(threads)
    {
        int64_t t = omp_get_thread_num(), count = omp_get_num_threads();
        int64_t begin = n * t / count, end = n * (t + 1) / count;
        if (begin < end) guard.run([&] { body(begin, end); });
    }
    guard.rethrow();
}

// The same item by item, body(i). Items of `equal` cost are shared out as parallel_for does, so that from one op to the
// next a thread finds its rows in its own cache; of others each thread takes the next one when it is free.
template <class Body>
void parallel_tasks(int64_t n, bool equal, Body&& body) {
    int threads = int(std::min<int64_t>(device::threads(), n));
    if (equal)
        return parallel_for(n, 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) body(i);
        });
    Guard guard;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < n; ++i) guard.run([&] { body(i); });
    guard.rethrow();
}

// Rows a thread should at least have so that starting it pays, for rows of `columns` elements.
inline int64_t row_grain(int64_t columns) { return std::max<int64_t>(1, 8192 / std::max<int64_t>(columns, 1)); }

// What a scratch buffer is for: buffers of different use live side by side.
enum class Scratch { inp, weight, dout, product, bias, partial, attention, count };

// At least `count` floats, 64-byte aligned, private to the calling thread, contents undefined. The memory is kept for
// the next call: fresh pages cost more than most ops do.
float* scratch(Scratch use, int64_t count);

}  // namespace llmc::cpu
