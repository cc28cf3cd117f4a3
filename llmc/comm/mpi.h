// MPI in a thread of its own, so that communication goes on while the program computes. Only this thread calls MPI.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "llmc/comm/mpi_library.h"

namespace llmc {

class Mpi {
public:
    // Loads and starts the library. If another process does not start it too, this would wait for ever: after `timeout`
    // seconds the program ends with a message.
    Mpi(MpiKind kind, double timeout, const std::string& program);
    ~Mpi();  // MPI_Finalize

    int rank() const { return rank_; }
    int size() const { return size_; }
    const std::string& version() const { return version_; }

    // Work for the thread, done in the order in which it is given, which must be the same on all processes. Returns its
    // number, from 1.
    int64_t post(std::function<void(MpiLibrary&)> work);
    // Until that work is done. Throws its error.
    void wait(int64_t number);
    void run(std::function<void(MpiLibrary&)> work) { wait(post(std::move(work))); }

private:
    void serve(MpiKind kind, double timeout, const std::string& program);

    int rank_ = 0, size_ = 1;
    std::string version_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<void(MpiLibrary&)>> waiting_;
    int64_t posted_ = 0, done_ = 0;
    std::exception_ptr error_;  // the first: nothing is done after it
    bool started_ = false, leaving_ = false;
    std::thread thread_;
};

}  // namespace llmc
