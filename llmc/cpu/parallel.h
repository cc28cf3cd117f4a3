// Work on several threads.
#pragma once
#include <omp.h>
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <utility>
#include "llmc/ops/device.h"

namespace llmc::cpu {

// Runs call() on each thread and keeps the first exception: none may leave a parallel region.
class Guard {
public:
    template <class Call>
    void run(Call&& call) {
        try {
            call();
        } catch (...) {
            if (!caught_.test_and_set()) error_ = std::current_exception();
        }
    }
    void rethrow() const {
        if (error_) std::rethrow_exception(error_);
    }

private:
    std::atomic_flag caught_;
    std::exception_ptr error_;
};

// A thread of a parallel_region, as long as it has not gone into a part of its work.
struct Member {
    int64_t thread, threads;
};
extern constinit thread_local const Member* member;  // parallel.cpp

// Every thread runs work(), and each parallel_for in it gives the thread its part without waiting for the others: they meet
// once, at the end, which costs microseconds each time. For loops that do not need each other's results.
template <class Work>
void parallel_region(Work&& work) {
    Guard guard;
#pragma omp parallel num_threads(device::threads())
    {
        const Member self{omp_get_thread_num(), omp_get_num_threads()};
        member = &self;
        guard.run(work);
        member = nullptr;
    }
    guard.rethrow();
}

// Calls body(begin, end) on contiguous parts of [0, n), one per thread; below `grain` items a thread, fewer threads.
// Only for bodies whose results do not depend on where the parts begin. Inside a body: one call, by the calling thread.
template <class Body>
void parallel_for(int64_t n, int64_t grain, Body&& body) {
    auto part = [&](int64_t thread, int64_t threads) {
        int64_t begin = n * thread / threads, end = n * (thread + 1) / threads;
        if (begin < end) body(begin, end);
    };
    if (const Member* self = std::exchange(member, nullptr)) {
        part(self->thread, self->threads);
        member = self;
        return;
    }
    int threads = int(std::min<int64_t>(device::threads(), (n + grain - 1) / std::max<int64_t>(grain, 1)));
    if (threads <= 1 || omp_in_parallel()) return part(0, 1);
    Guard guard;
#pragma omp parallel num_threads(threads)
    guard.run([&] { part(omp_get_thread_num(), omp_get_num_threads()); });
    guard.rethrow();
}

// The same item by item, body(i). Items of `equal` cost are shared out as parallel_for does, so that from one op to the
// next a thread finds its rows in its own cache; of others each thread takes the next one when it is free.
template <class Body>
void parallel_tasks(int64_t n, bool equal, Body&& body) {
    int threads = int(std::min<int64_t>(device::threads(), n));
    if (equal || member)  // in a parallel_region a thread has its part and no other
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

}  // namespace llmc::cpu
