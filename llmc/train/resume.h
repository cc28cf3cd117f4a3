// What --resume takes from the run that it continues, and what it refuses.
#pragma once
#include <string>
#include <vector>

#include "llmc/data/dataset.h"
#include "llmc/train/options/settings.h"

namespace llmc {

// The options of the run in `out`, as if they had been given; empty if it left none.
std::vector<Setting> stored_settings(const std::string& out);

// What identifies a data set: names, sizes and hashes of its shards, and the SHA-256 of its source text.
nlohmann::json fingerprint(const Dataset* data);
// What changed, in words; empty if nothing did, or if one of the two is null.
std::string difference(const nlohmann::json& then, const nlohmann::json& now);

// "the run in OUT is finished ...": what to say instead of continuing it; empty if there is something to do.
std::string why_finished(const std::string& out, const Config& config, int64_t step, int64_t steps);

}  // namespace llmc
