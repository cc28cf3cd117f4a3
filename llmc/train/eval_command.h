// `train_gpt2 eval CHECKPOINT --val-data ...`: the loss of a checkpoint on a data set.
#pragma once
#include "llmc/train/options/command_line.h"

namespace llmc {

int eval_command(const CommandLine& line);

}  // namespace llmc
