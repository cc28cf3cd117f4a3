// The origin of a result: stored in the log's first line and in every checkpoint.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

namespace llmc {

nlohmann::ordered_json provenance(const std::string& data_sha256);

}  // namespace llmc
