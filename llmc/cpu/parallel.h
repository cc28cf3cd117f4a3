// Loops on several threads.
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

// Runs call() on each thread and keeps the first exception, because none may leave a parallel region.
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

// Set on a thread of a parallel_region while it is not inside of a parallel_for.
struct Member {
    int64_t thread, threads;
};
extern constinit thread_local const Member* member;  // parallel.cpp

// Every thread runs work(), in which each parallel_for gives the thread its part and does not wait for the others.
// Threads synchronise once, at the end, which saves microseconds. For loops that do not need each other's results.
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

// Calls body(begin, end) on contiguous parts of [0, n), one for each thread, with fewer threads if a part would have
// fewer than `grain` items. The result of body must not depend on where parts begin. Inside of a body: one call, by the
// calling thread.
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

// The same item by item, body(i). Items of `equal` cost are divided as parallel_for does, so that a thread has the same
// rows, in its cache, from one op to the next. Otherwise each thread takes the next item when it is free.
template <class Body>
void parallel_tasks(int64_t n, bool equal, Body&& body) {
    int threads = int(std::min<int64_t>(device::threads(), n));
    if (equal || member)  // in a parallel_region the parts are fixed
        return parallel_for(n, 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) body(i);
        });
    Guard guard;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < n; ++i) guard.run([&] { body(i); });
    guard.rethrow();
}

// The fewest rows of `columns` elements for which it pays to start a thread.
inline int64_t row_grain(int64_t columns) { return std::max<int64_t>(1, 8192 / std::max<int64_t>(columns, 1)); }

}  // namespace llmc::cpu
