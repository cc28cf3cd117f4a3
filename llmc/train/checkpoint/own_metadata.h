// The metadata that this program writes into its files (doc/formats.md).
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "llmc/core/error.h"
#include "llmc/train/checkpoint/safetensors.h"

namespace llmc {

// Whether this program wrote the file. (Other programs' metadata may have a key "model", too.)
inline bool is_own(const SafetensorsFile& file) {
    const auto says = [&](const char* key) {  // "format" in version 0.1.0
        const auto found = file.metadata().find(key);
        return found != file.metadata().end() && found->second.starts_with("llmc-mup");
    };
    return says("writer") || says("format");
}

inline nlohmann::json parse_metadata(const SafetensorsFile& file, const std::string& key) {
    nlohmann::json value = nlohmann::json::parse(file.metadata(key), nullptr, false);
    if (value.is_discarded()) fail_damaged(file.path, " is damaged: its metadata '", key, "' is not JSON");
    return value;
}

inline int64_t step_of(const SafetensorsFile& file) {
    const std::string& text = file.metadata("step");
    if (text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != std::string::npos)
        fail_damaged(file.path, " is damaged: its step is '", text, "'");
    return std::stoll(text);
}

}  // namespace llmc
