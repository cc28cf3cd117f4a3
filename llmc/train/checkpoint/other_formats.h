// Files that are no safetensors: what they are, and what to do with them.
#pragma once
#include <string>

namespace llmc {

// ": it was written by torch.save; convert it ..." for a file that begins like one of a known format; empty for others
// and for what cannot be read.
std::string what_file_is(const std::string& path);

// What to say of a folder without a model.safetensors.
std::string what_is_in(const std::string& folder);

}  // namespace llmc
