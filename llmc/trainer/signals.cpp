#include "signals.h"

#include <csignal>

namespace llmc {
namespace {
volatile std::sig_atomic_t received = 0;
void remember(int signal) { received = signal; }
}  // namespace

void install_signal_handlers() {
    struct sigaction action = {};
    action.sa_handler = remember;
    action.sa_flags = SA_RESTART | SA_RESETHAND;  // a second Ctrl-C ends the program at once
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error message, not a death
    std::signal(SIGPIPE, SIG_IGN);  // `train_gpt2 | head` must not lose the run
}

int received_signal() { return received; }

}  // namespace llmc
