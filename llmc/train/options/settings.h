// From given settings (command line, TOML, Python) to a Config: every value passes the same checks.
#pragma once
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "llmc/train/options/option.h"

namespace llmc {

// One option that was given. `where` starts the message if the value is refused: "--lr", "run.toml: lr", "lr".
struct Setting {
    const Option* option;
    nlohmann::json value;  // null: not given
    std::string where;
};

// The options that were given explicitly, not set by a default or a preset.
class Given {
public:
    void add(const Option& option) { names_.insert(option.name); }
    bool has(const std::string& name) const { return names_.contains(name); }

private:
    std::set<std::string> names_;
};

// Whether a value differs from what leaves the option out: not null, false, empty or `off`.
bool has_effect(const Option& option, const nlohmann::json& value);

// Parses the text of a value: on the command line, and of a number in quotes. Whole numbers may have a point or an
// exponent (1e6). Usage error if it does not have the option's type.
nlohmann::json parse_text(const Option& option, const std::string& text, const std::string& where);

// Applies defaults, then the preset, then the settings, where later ones win; then calls validate(). Usage errors name
// the option, its value and what is allowed.
Config make_config(std::vector<Setting> settings, Given& given);

// Checks of several options: those that exclude or need each other, or have no meaning under the scheme. The latter are
// left to validate_scheme if there is an --init, whose checkpoint may have a scheme of its own (take_parametrization).
void validate(const Config& config, const Given& given);
void validate_scheme(const Config& config, const Given& given);

// Usage error for a text that is not UTF-8: log and checkpoints, which keep the options of a run, could not be written.
void check_storable(const Config& config);

// Checks one value against its option: type, range, choices.
void check_value(const Option& option, const nlohmann::json& value, const std::string& where);

// Resolve values that depend on several options or on the shape of a checkpoint. resolve_batch sets --total-batch-size
// and the scheme's --grad-clip, and checks that micro-batches divide the batch; resolve_heads turns --head-dim into
// --heads and checks that they divide the width.
void resolve_batch(Config& config, int ranks = 1);
void resolve_heads(Config& config);

// A value in a message: a text without quotes, whole numbers without a point, [1, 2], true; "..." for what no option
// takes (tables, dates).
std::string shown(const nlohmann::json& value);

// Writes TOML that --config reads.
std::string to_toml(const Config& config);
// The settings of a TOML file. Usage error for a file that cannot be read, is not TOML, or has an unknown key.
std::vector<Setting> read_toml(const std::string& path);

}  // namespace llmc
