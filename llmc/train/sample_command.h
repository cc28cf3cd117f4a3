// train_gpt2 sample CHECKPOINT
#pragma once
#include "llmc/train/options/command_line.h"

namespace llmc {

// Prints the prompt and its continuation; of several, each after a line that counts them. Returns the exit code.
int sample_command(const CommandLine& line);

}  // namespace llmc
