#include "llmc/train/options/precedence.h"

#include <algorithm>
#include <map>

#include "llmc/core/error.h"

namespace llmc {
namespace {

using ByName = std::map<std::string, const Setting*>;

bool lists(const std::vector<const char*>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

ByName by_name(const std::vector<Setting>& settings) {
    ByName out;
    for (const Setting& setting : settings) out[setting.option->name] = &setting;
    return out;
}

bool has_effect(const Setting& setting) { return has_effect(*setting.option, setting.value); }

// Why a setting of the file is left out for one of the command line; empty if it is not.
std::string reason(const Setting& of_file, const Setting& given, bool untied) {
    const std::string name = of_file.option->name, other = given.option->name;
    if (!has_effect(given)) return "";
    if (lists(given.option->replaces, name)) return "--" + other + " " + shown(given.value) + " is given";
    if (!has_effect(of_file)) return "";
    if (lists(of_file.option->excludes, other) || lists(given.option->excludes, name))
        return "--" + other + " is given";
    if (other != "parametrization") return "";
    for (const Scheme& scheme : Parametrization::schemes()) {
        if (given.value != scheme.name) continue;
        if (of_file.option->meant && !of_file.option->meant(scheme))
            return str("no meaning under --parametrization ", scheme.name);
        if (name == "zero-init-head" && scheme.ties && !untied)
            return str("--parametrization ", scheme.name, " ties the head");
    }
    return "";
}

// The options of a file and of the command line, and why those of the file are left out.
struct Precedence {
    ByName ours, theirs;
    std::map<std::string, std::string> reasons = {};

    // Whether the command line turned an option off, or it is left out of the file.
    bool off(const std::string& name) const {
        if (theirs.contains(name)) return !has_effect(*theirs.at(name));
        return reasons.contains(name) || (ours.contains(name) && off(ours.at(name)->option->needs));
    }
    bool untied() const {
        const ByName& names = theirs.contains("tie-embeddings") ? theirs : ours;
        return names.contains("tie-embeddings") && names.at("tie-embeddings")->value == false;
    }
    void find_reasons() {
        for (const auto& [name, setting] : ours) {
            if (theirs.contains(name) || setting->value.is_null()) continue;
            for (const auto& [other, given] : theirs) {
                // what the command line only repeats already stands beside the rest of the file
                if (ours.contains(other) && ours.at(other)->value == given->value) continue;
                const std::string why = reason(*setting, *given, untied());
                if (!why.empty()) reasons.insert({name, why});
            }
        }
        for (const auto& [name, setting] : ours)
            if (!theirs.contains(name) && has_effect(*setting) && off(setting->option->needs))
                reasons.insert({name, str("--", setting->option->needs, " is off")});
    }
};

}  // namespace

std::vector<std::string> leave_out(std::vector<Setting>& of_file, const std::vector<Setting>& given,
                                   const std::string& file) {
    Precedence precedence{by_name(of_file), by_name(given)};
    precedence.find_reasons();
    std::vector<std::pair<std::string, std::string>> left_out;  // reason, "steps = 5, epochs = 2.0"
    std::erase_if(of_file, [&](const Setting& setting) {
        const auto why = precedence.reasons.find(setting.option->name);
        if (why == precedence.reasons.end()) return false;
        const std::string text = str(setting.option->name, " = ", shown(setting.value));
        const auto is_known = [&](const auto& entry) { return entry.first == why->second; };
        const auto known = std::find_if(left_out.begin(), left_out.end(), is_known);
        if (known == left_out.end())
            left_out.push_back({why->second, text});
        else
            known->second += ", " + text;
        return true;
    });
    std::vector<std::string> notes;
    for (const auto& [why, what] : left_out) notes.push_back(str(file, ": ", what, " left out: ", why));
    return notes;
}

}  // namespace llmc
