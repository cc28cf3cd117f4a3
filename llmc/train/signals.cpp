// No signal handler may interrupt a computing thread: oneDNN's generated sgemm keeps data below the stack's red zone,
// where the frame of a handler overwrites it (seen with oneDNN 2.6: one run in twenty ended with a corrupted heap).
// Signals are blocked in all threads and received by a separate one.
#include "llmc/train/signals.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

namespace llmc {
namespace {
std::atomic<int> received = 0;
}  // namespace

void watch_signals() {
    sigset_t watched;
    sigemptyset(&watched);
    sigaddset(&watched, SIGINT);
    sigaddset(&watched, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &watched, nullptr);
    std::thread([watched] {
        for (int signal; sigwait(&watched, &signal) == 0;)
            if (received.exchange(signal)) _exit(128 + signal);
    }).detach();
    std::signal(SIGXFSZ, SIG_IGN);  // a file at its size limit is a write error, not the end of the process
    std::signal(SIGPIPE, SIG_IGN);  // `train_gpt2 | head` must not lose the run
}

int received_signal() { return received; }

}  // namespace llmc
