#include "llmc/train/options/option.h"

#include <algorithm>
#include <cmath>

namespace llmc {
namespace {

using nlohmann::ordered_json;

int edit_distance(const std::string& a, const std::string& b) {
    std::vector<int> row(b.size() + 1);
    for (size_t j = 0; j <= b.size(); ++j) row[j] = int(j);
    for (size_t i = 1; i <= a.size(); ++i) {
        int diagonal = row[0];
        row[0] = int(i);
        for (size_t j = 1; j <= b.size(); ++j) {
            const int above = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
            diagonal = above;
        }
    }
    return row[b.size()];
}

std::string with_dashes(std::string name) {
    std::replace(name.begin(), name.end(), '_', '-');
    return name;
}

// Whole numbers without a point.
ordered_json bound(double value) {
    if (!std::isfinite(value)) return nullptr;
    return value == std::floor(value) ? ordered_json(int64_t(value)) : ordered_json(value);
}

// Schemes for which the predicate holds; null if there is no predicate.
ordered_json schemes(bool (*holds)(const Scheme&)) {
    if (!holds) return nullptr;
    ordered_json names = ordered_json::array();
    for (const Scheme& scheme : Parametrization::schemes())
        if (holds(scheme)) names.push_back(scheme.name);
    return names;
}

ordered_json scopes(unsigned scope) {
    ordered_json names = ordered_json::array();
    for (auto& [bit, name] : {std::pair{kRun, "run"}, {kModel, "model"}, {kSample, "sample"}})
        if (scope & bit) names.push_back(name);
    return names;
}

// Name, type, default and help always; other members if they are set.
ordered_json to_json(const Option& o) {
    ordered_json out = {{"name", o.name}, {"group", o.group}, {"type", name_of(o.field.type)}};
    const auto add = [&](const char* key, const ordered_json& value) {
        if (!value.is_null() && value != "" && value != false && value != ordered_json::array()) out[key] = value;
    };
    add("unit", o.unit);
    add("choices", o.all_choices());
    add("low", bound(o.low));
    add("high", bound(o.high));
    add("above_low", o.above_low);
    out["default"] = o.field.get(Config{});
    add("default_text", o.default_text);
    out["help"] = o.help;
    add("off", o.off);
    add("excludes", o.excludes);
    add("needs", o.needs);
    add("needs_why", o.needs_why);
    add("schemes", schemes(o.meant));
    add("schemes_why", o.meant_why);
    add("required_by", schemes(o.required));
    out["scope"] = scopes(o.scope);
    if (!o.stored) out["stored"] = false;
    return out;
}

}  // namespace

nlohmann::json as_list(const nlohmann::json& value) {
    if (!value.is_string()) return value;
    return value == "" ? nlohmann::json::array() : nlohmann::json::array({value});
}

std::string Option::key() const {
    std::string key = name;
    std::replace(key.begin(), key.end(), '-', '_');
    return key;
}

const Option* find_option(const std::string& name) {
    const std::string wanted = with_dashes(name);
    for (const Option& option : options())
        if (wanted == option.name) return &option;
    return nullptr;
}

std::string nearest_option(std::string given, Scope scope) {
    given = with_dashes(given.substr(std::min(given.find_first_not_of('-'), given.size())));
    given = given.substr(0, given.find('='));
    std::string best;
    int best_distance = std::min<int>(4, int(given.size() + 1) / 2);
    for (const Option& option : options()) {
        if (!(option.scope & scope)) continue;
        if (const int d = edit_distance(given, option.name); d < best_distance) best = option.name, best_distance = d;
    }
    return best.empty() ? "; --help lists the options" : "; did you mean --" + best + "?";
}

ordered_json options_json() {
    ordered_json list = ordered_json::array(), published;
    for (const Option& option : options()) list.push_back(to_json(option));
    for (const Preset& p : presets())
        published[p.name] = {{"depth", p.depth}, {"width", p.width}, {"heads", p.heads}, {"seq_len", p.seq_len}};
    return {{"options", list}, {"presets", published}};
}

}  // namespace llmc
