#include "llmc/train/config.h"

#include <nlohmann/json.hpp>

#include "llmc/core/error.h"
#include "llmc/train/options/settings.h"

namespace llmc {

nlohmann::ordered_json to_json(const Config& config) {
    nlohmann::ordered_json out;
    for (const Option& option : options())
        if (option.stored) out[option.key()] = option.field.get(config);
    return out;
}

Config from_json(const nlohmann::json& stored, const std::string& source) {
    Config config;
    if (!stored.is_object()) return config;
    for (const Option& option : options()) {
        const auto found = stored.find(option.key());
        if (found == stored.end() || found->is_null() || (*found == "" && !option.all_choices().empty())) continue;
        try {
            check_value(option, *found, option.key());
        } catch (const Error& error) {
            fail_data(source, " is damaged: in its config, ", error.what());
        }
        option.field.set(config, *found);
    }
    return config;
}

}  // namespace llmc
