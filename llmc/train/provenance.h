// The origin of a result: stored in the log's first line and in every checkpoint.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

namespace llmc {

// program: what trains, train_gpt2 or llmc.GPT2. `started` is now.
nlohmann::ordered_json provenance(const std::string& program, const std::string& data_sha256);

}  // namespace llmc
