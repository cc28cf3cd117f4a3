// SIGINT and SIGTERM ask the training loop to finish its step, save and end; a second signal ends the program at once.
#pragma once

namespace llmc {

// Call before other threads start: they inherit the blocked signals.
void watch_signals();
int received_signal();  // 0: none

}  // namespace llmc
