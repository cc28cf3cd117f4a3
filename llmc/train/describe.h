// Describes a run as text: for its first lines of output and for --dry-run.
#pragma once
#include <string>

#include "llmc/train/setup.h"

namespace llmc {

std::string describe(const Setup& setup);  // shapes, memory, tokens, FLOPs

// The model options of the run. Throws if they need more memory than is available, and names a batch size that fits.
GPT2Options checked_memory(const Setup& setup);

}  // namespace llmc
