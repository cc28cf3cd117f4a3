// What a user should know about the options of a run although it can be done.
#pragma once
#include <string>
#include <vector>

#include "llmc/train/setup.h"

namespace llmc {

// Of a setup that is complete. A sentence each.
std::vector<std::string> warnings_of(const Setup& setup);

}  // namespace llmc
