#include "llmc/comm/mpi.h"

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "llmc/comm/socket.h"
#include "llmc/core/error.h"

namespace llmc {
namespace {

// Ends the program if it is not called off in time.
class Watchdog {
public:
    Watchdog(double seconds, std::string text) {
        thread_ = std::thread([this, seconds, text = std::move(text)] {
            std::unique_lock lock(mutex_);
            const auto time = std::chrono::milliseconds(int64_t(1e3 * seconds));
            if (changed_.wait_for(lock, time, [this] { return off_; })) return;
            std::fprintf(stderr, "%s\n", text.c_str());
            _exit(kExitFailure);
        });
    }
    ~Watchdog() {
        {
            const std::lock_guard lock(mutex_);
            off_ = true;
        }
        changed_.notify_all();
        thread_.join();
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool off_ = false;
    std::thread thread_;
};

void set_defaults() {
    // Both libraries poll while they wait. Where processes have no CPU to spare, that takes it from those who compute.
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    setenv("MPIR_CVAR_POLLS_BEFORE_YIELD", "1", 0);
    setenv("UCX_HANDLE_ERRORS", "none", 0);  // not its backtrace
}

// UCX, below MPICH, aborts the process if one that it reads from is gone. The control connections tell why that is, and
// end this process with a line that says so: abort() waits for that.
thread_local bool t_calls_mpi = false;

void wait_for_the_reason(int) {
    const timespec time{5, 0};
    if (t_calls_mpi) nanosleep(&time, nullptr);
}

}  // namespace

Mpi::Mpi(MpiKind kind, double timeout, const std::string& program) {
    thread_ = std::thread([=, this] { serve(kind, timeout, program); });
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return started_ || error_; });
    if (!error_) return;
    lock.unlock();
    thread_.join();
    std::rethrow_exception(error_);
}

Mpi::~Mpi() {
    {
        const std::lock_guard lock(mutex_);
        leaving_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

void Mpi::serve(MpiKind kind, double timeout, const std::string& program) {
    std::unique_ptr<MpiLibrary> library;
    try {
        set_defaults();
        t_calls_mpi = true;
        std::signal(SIGABRT, wait_for_the_reason);
        library = MpiLibrary::load(kind);
        const Watchdog watchdog(timeout, str(program, ": this process on ", host_name(), " waited ", timeout,
                                             " s for the others to start MPI: one of them did not come"));
        library->init();
        rank_ = library->rank(), size_ = library->size(), version_ = library->version();
    } catch (...) {
        const std::lock_guard lock(mutex_);
        error_ = std::current_exception();
        changed_.notify_all();
        return;
    }
    std::unique_lock lock(mutex_);
    started_ = true;
    changed_.notify_all();
    for (;;) {
        changed_.wait(lock, [this] { return leaving_ || !waiting_.empty(); });
        if (waiting_.empty()) break;
        const std::function<void(MpiLibrary&)> work = std::move(waiting_.front());
        waiting_.pop_front();
        lock.unlock();
        std::exception_ptr error;
        try {
            work(*library);
        } catch (...) {
            error = std::current_exception();
        }
        lock.lock();
        if (error) {
            error_ = error;
            changed_.notify_all();
            return;  // without MPI_Finalize, which would wait for the others
        }
        ++done_;
        changed_.notify_all();
    }
    lock.unlock();
    try {
        library->finalize();
    } catch (const Error& error) {
        std::fprintf(stderr, "note: %s\n", error.what());
    }
}

int64_t Mpi::post(std::function<void(MpiLibrary&)> work) {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(work));
    changed_.notify_all();
    return ++posted_;
}

void Mpi::wait(int64_t number) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_ >= number || error_; });
    if (done_ < number) std::rethrow_exception(error_);
}

}  // namespace llmc
