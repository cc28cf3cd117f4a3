// --config FILE.toml and --print-config.
#include <toml++/toml.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "llmc/core/error.h"
#include "llmc/train/options/settings.h"

namespace llmc {
namespace {

// Null for tables, dates and times.
nlohmann::json json_of(const toml::node& node) {
    if (const auto* value = node.as_string()) return value->get();
    if (const auto* value = node.as_integer()) return value->get();
    if (const auto* value = node.as_floating_point()) return value->get();
    if (const auto* value = node.as_boolean()) return value->get();
    if (!node.is_array()) return nullptr;
    nlohmann::json items = nlohmann::json::array();
    for (const toml::node& item : *node.as_array()) items.push_back(json_of(item));
    return items;
}

// The value of a key. Usage error for tables and dates, and for lists where the option takes one value.
nlohmann::json value_of(const toml::node& node, const Option* option, const std::string& where) {
    const nlohmann::json value = json_of(node);
    if (value.is_array() && !(option && option->field.type == OptionType::list))
        fail_usage(where, " is a list, ", shown(value), ": give one value");
    if (!value.is_null()) return value;
    if (node.is_table())
        fail_usage(where, " is a table: options stand at the top of the file, outside of any [section]");
    fail_usage(where, " is a date or time: give a number, a text, true or false");
}

}  // namespace

std::vector<Setting> read_toml(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in.is_open() || std::filesystem::is_directory(path))
        fail_usage("--config ", path, " cannot be read: give a TOML file");
    const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    toml::table table;
    try {
        table = toml::parse(text, path);
    } catch (const toml::parse_error& error) {
        fail_usage("--config ", path, ", line ", error.source().begin.line, ": ", error.description());
    }
    std::vector<Setting> settings;
    for (auto&& [key, node] : table) {
        const std::string name(key.str());
        const Option* option = find_option(name);
        if (!option || !(option->scope & kRun)) {
            if (node.is_table()) value_of(node, nullptr, str("--config ", path, ": [", name, "]"));
            fail_usage("--config ", path, ": unknown key '", name, "'", nearest_option(name));
        }
        const std::string where = str("--config ", path, ": --", option->name);
        settings.push_back({option, value_of(node, option, where), where});
    }
    return settings;
}

namespace {

// The value as JSON, except for DEL in a text, which JSON allows and TOML does not.
std::string toml_text(const nlohmann::ordered_json& value) {
    if (value.is_array()) {
        std::string items;
        for (const auto& item : value) items += (items.empty() ? "" : ", ") + toml_text(item);
        return "[" + items + "]";
    }
    if (value.is_number_float()) return shortest_digits(value);
    std::string out;
    for (char c : value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace))
        out += c == '\x7f' ? std::string("\\u007f") : std::string(1, c);
    return out;
}

}  // namespace

std::string to_toml(const Config& config) {
    std::string out;
    for (const Option& option : options()) {
        nlohmann::ordered_json value = option.field.get(config);
        if (value.is_array() && value.size() == 1) value = value[0];
        // an option that is not given, or whose default depends on others; --tokens and --epochs exclude --steps
        const bool unset = value.is_null() || value == "" || value.empty() || (option.off == -1 && value == -1);
        if (!unset && option.stored) out += str(option.name, " = ", toml_text(value), "\n");
    }
    return out;
}

}  // namespace llmc
