// SIGINT and SIGTERM ask the training loop to finish its step, save, and leave; a second one ends the program at once.
#pragma once

namespace llmc {

// Call before any other thread exists: threads inherit what is blocked here.
void watch_signals();
int received_signal();  // 0: none

}  // namespace llmc
