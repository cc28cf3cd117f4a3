// SIGINT and SIGTERM ask the training loop to stop at the next step, batch of an evaluation or token, and to save. After
// SIGTERM, which SIGKILL may follow, a step is given up between two micro-batches. While the run stops, further signals
// are ignored: launchers send them twice (SLURM: SIGTERM to the step and again to its processes, 0.4 s later). The
// third Ctrl-C, or a SIGTERM 20 seconds after the first signal, ends the program at once.
#pragma once

namespace llmc {

// Call before other threads start: they inherit the blocked signals.
void watch_signals();
int received_signal();  // the first one; 0: none

}  // namespace llmc
