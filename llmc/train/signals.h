// SIGINT and SIGTERM ask the training loop to stop at the next step, batch or token, and to save. While it does, further
// ones are ignored: launchers send them twice (SLURM: SIGTERM to the step and again to its processes, 0.4 s later). The
// third Ctrl-C, or a SIGTERM 20 seconds after the first signal, ends the program at once.
#pragma once

namespace llmc {

// Call before other threads start: they inherit the blocked signals.
void watch_signals();
int received_signal();  // the first one; 0: none

}  // namespace llmc
