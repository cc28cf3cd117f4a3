// What a run needs and does, in words: for the first lines of a run and for --dry-run.
#pragma once
#include <string>

#include "llmc/train/setup.h"

namespace llmc {

std::string describe(const Setup& setup);  // shapes, memory, tokens, FLOPs

// What the run needs of a model. Throws where that is more memory than there is, and says which batch size would fit.
GPT2Options checked_memory(const Setup& setup);

}  // namespace llmc
