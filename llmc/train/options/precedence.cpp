#include "llmc/train/options/precedence.h"

#include <algorithm>

#include "llmc/core/error.h"

namespace llmc {
namespace {

bool lists(const std::vector<const char*>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

// Why a setting of the file is left out for one of the command line; empty if it is not.
std::string reason(const Setting& of_file, const Setting& given) {
    const std::string name = of_file.option->name, other = given.option->name;
    if (name == other || !has_effect(*given.option, given.value)) return "";
    if (lists(of_file.option->excludes, other) || lists(given.option->excludes, name))
        return "--" + other + " is given";
    if (other == "preset" && lists({"depth", "width", "heads", "head-dim", "seq-len"}, name))
        return "--preset " + shown(given.value) + " is given";
    if (other == "parametrization" && of_file.option->meant && given.value.is_string())
        for (const Scheme& scheme : Parametrization::schemes())
            if (scheme.name == given.value && !of_file.option->meant(scheme))
                return str("no meaning under --parametrization ", scheme.name);
    return "";
}

}  // namespace

std::vector<std::string> leave_out(std::vector<Setting>& of_file, const std::vector<Setting>& given,
                                   const std::string& file) {
    std::vector<std::pair<std::string, std::string>> left_out;  // reason, "steps = 5, epochs = 2.0"
    std::erase_if(of_file, [&](const Setting& setting) {
        const auto same = [&](const Setting& other) { return other.option == setting.option; };
        if (!has_effect(*setting.option, setting.value) || std::any_of(given.begin(), given.end(), same)) return false;
        for (const Setting& other : given) {
            const std::string why = reason(setting, other);
            if (why.empty()) continue;
            const std::string text = str(setting.option->name, " = ", shown(setting.value));
            const auto known = std::find_if(left_out.begin(), left_out.end(), [&](auto& l) { return l.first == why; });
            if (known == left_out.end())
                left_out.push_back({why, text});
            else
                known->second += ", " + text;
            return true;
        }
        return false;
    });
    std::vector<std::string> notes;
    for (const auto& [why, what] : left_out) notes.push_back(str(file, ": ", what, " left out: ", why));
    return notes;
}

}  // namespace llmc
