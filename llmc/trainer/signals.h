// SIGINT and SIGTERM ask the training loop to finish its step, save, and leave.
#pragma once

namespace llmc {

void install_signal_handlers();
int received_signal();  // 0: none

}  // namespace llmc
