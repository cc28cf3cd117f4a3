// --config FILE.toml and --print-config.
#include <stdexcept>
// toml++ 3.3 ends the program with an assertion on some texts that are not TOML: an exception instead.
constexpr void toml_assert(bool holds) {
    if (!holds) throw std::logic_error("toml++ does not know what this is");
}
#define TOML_ASSERT(expr) toml_assert(bool(expr))
#include <toml++/toml.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "llmc/core/error.h"
#include "llmc/train/options/numbers.h"
#include "llmc/train/options/settings.h"

namespace llmc {
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

constexpr const char* kOutsideTables = "options stand at the top of the file, outside of any [section]";

// The value of a key. Usage error for tables and dates, and for lists where the option takes one value.
nlohmann::json value_of(const toml::node& node, const Option& option, const std::string& where) {
    const nlohmann::json value = json_of(node);
    if (value.is_array() && option.field.type != OptionType::list)
        fail_usage(where, " is a list, ", shown(value), ": give one value");
    if (node.is_table()) fail_usage(where, " is a table: ", kOutsideTables);
    if (value.is_null()) fail_usage(where, " is a date or time: give a number, a text, true or false");
    return value;
}

// Lines of a file, without their ends.
std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) {
        if (line.ends_with('\r')) line.pop_back();
        lines.push_back(line);
    }
    return lines;
}

bool parses(const std::vector<std::string>& lines, size_t count) {
    std::string text;
    for (size_t i = 0; i < count; ++i) text += lines[i] + "\n";
    try {
        (void)toml::parse(text);
        return true;
    } catch (const std::exception&) {
        return false;
    }
}

// The line, from 0, at which the statement with the error begins: the lines before it are valid. `reported` is the line
// that the parser names, which for an unclosed text or list is the last of the file.
size_t line_of_error(const std::vector<std::string>& lines, size_t reported) {
    constexpr size_t kTries = 100;  // each parses the file again
    for (size_t line = reported, tries = 0; tries < kTries; --line, ++tries)
        if (line == 0 || parses(lines, line)) return line;
    return reported;
}

// A line in quotes, its first 60 characters.
std::string quoted_line(const std::string& line) {
    size_t end = 0, characters = 0;
    for (; end < line.size(); ++end)
        if ((line[end] & 0xC0) != 0x80 && ++characters > 60) break;
    return toml_text(line.substr(0, end));
}

// "lr" of " lr = 1"; empty if the line does not begin with a plain key.
std::string key_of(const std::string& line) {
    size_t begin = line.find_first_not_of(" \t"), end = begin;
    while (end < line.size() &&
           (std::isalnum(static_cast<unsigned char>(line[end])) || line[end] == '_' || line[end] == '-'))
        ++end;
    const size_t equals = line.find_first_not_of(" \t", end);
    return begin < end && equals != std::string::npos && line[equals] == '=' ? line.substr(begin, end - begin) : "";
}

// What to do about a line that is not TOML.
std::string advice(const std::vector<std::string>& lines, size_t bad) {
    const std::string key = key_of(lines[bad]);
    for (size_t i = 0; i < bad && !key.empty(); ++i)
        if (key_of(lines[i]) == key)
            return str(key, " is given twice, first in line ", i + 1, ": ", quoted_line(lines[i]));
    if (key.empty()) return "write one option a line, name = value";
    size_t begin = lines[bad].find_first_not_of(" \t", lines[bad].find('=') + 1);
    if (begin == std::string::npos) return "a value is missing";
    for (const char* word : {"True", "False", "TRUE", "FALSE", "yes", "no", "on", "off", "None"})
        if (lines[bad].compare(begin, std::string::npos, word) == 0) return "write true or false";
    return "give one number, true, false, a text in quotes, or a list of these: [1, 2]";
}

}  // namespace

std::vector<Setting> read_toml(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in.is_open() || std::filesystem::is_directory(path))
        fail_usage("--config ", path, " cannot be read: give a TOML file");
    std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    try {
        (void)nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
        fail_usage("--config ", path, " is not UTF-8: save it as UTF-8 text");
    }
    if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);  // a byte order mark
    toml::table table;
    try {
        table = toml::parse(text);
    } catch (const std::exception& problem) {
        std::vector<std::string> lines = lines_of(text);
        if (lines.empty()) lines.push_back("");
        const auto* error = dynamic_cast<const toml::parse_error*>(&problem);
        const size_t named = error ? error->source().begin.line : lines.size(),
                     line = line_of_error(lines, std::min(named, lines.size()) - 1);
        fail_usage("--config ", path, ", line ", line + 1, ": ", quoted_line(lines[line]),
                   " is not TOML: ", advice(lines, line));
    }
    std::vector<Setting> settings;
    for (auto&& [key, node] : table) {
        const std::string name(key.str());
        const Option* option = find_option(name);
        if (!option || !(option->scope & kRun)) {
            const auto* array = node.as_array();
            if (node.is_table() || (array && !array->empty() && array->front().is_table()))
                fail_usage("--config ", path, ": [", name, "] is a table: ", kOutsideTables);
            fail_usage("--config ", path, ": unknown key '", name, "'", nearest_option(name, kRun, NameStyle::toml));
        }
        const std::string where = str("--config ", path, ": --", option->name);
        const nlohmann::json value = value_of(node, *option, where);
        for (const Setting& other : settings)  // base-width and base_width
            if (other.option == option)
                fail_usage(where, " is given twice, as ", option->name, " = ", shown(other.value), " and ", name, " = ",
                           shown(value), ": leave one out");
        settings.push_back({option, value, where});
    }
    return settings;
}

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
