#include "llmc/train/options/option.h"

#include <algorithm>
#include <cmath>

namespace llmc {
namespace {

using nlohmann::ordered_json;

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
    for (auto& [bit, name] : {std::pair{kRun, "run"}, {kModel, "model"}, {kSample, "sample"}, {kEval, "eval"}})
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
    add("replaces", o.replaces);
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

ordered_json options_json() {
    ordered_json list = ordered_json::array(), published;
    for (const Option& option : options()) list.push_back(to_json(option));
    for (const Preset& p : presets())
        published[p.name] = {{"depth", p.depth}, {"width", p.width}, {"heads", p.heads}, {"seq_len", p.seq_len}};
    ordered_json others;
    for (const OtherNames& o : other_names()) others[o.option] = o.names;
    return {{"options", list}, {"presets", published}, {"other_names", others}};
}

}  // namespace llmc
