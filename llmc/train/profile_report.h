// What --profile shows at the end: the time of every op, and of the exchange between processes.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "llmc/comm/comm.h"

namespace llmc {

// Of `steps` steps that took `seconds`. exchanged: of several processes.
nlohmann::ordered_json profile_json(int64_t steps, double seconds, const std::optional<Comm::Times>& exchanged);
std::string profile_text(int64_t steps, double seconds, const std::optional<Comm::Times>& exchanged);

}  // namespace llmc
