// train_gpt2 info CHECKPOINT: what a model file holds.
#pragma once
#include <string>

namespace llmc {

// The text, a fact per line. Data error if the file cannot be read.
std::string describe_checkpoint(const std::string& path);

}  // namespace llmc
