// The rule table as text, for --dry-run.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace llmc {

// `parametrization`: Parametrization::to_json. A tensor whose rule is the same in all blocks has one row, h.*.NAME;
// all_tensors: one row per tensor.
std::string rule_table(const nlohmann::ordered_json& parametrization, bool all_tensors);

}  // namespace llmc
