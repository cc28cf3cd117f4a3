// One option: a long option on the command line, a TOML key, a key of the stored config, a keyword argument in Python.
#pragma once
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "llmc/mup/parametrization.h"
#include "llmc/train/config.h"

namespace llmc {

enum class OptionType { flag, integer, number, text, choice, list };
template <>
struct Names<OptionType> {
    static constexpr std::pair<const char*, OptionType> list[] = {
        {"flag", OptionType::flag}, {"integer", OptionType::integer}, {"number", OptionType::number},
        {"text", OptionType::text}, {"choice", OptionType::choice},   {"list", OptionType::list}};
};

// The value of a list, which may be a single text: [] for "", ["a"] for "a".
nlohmann::json as_list(const nlohmann::json& value);

// A member of Config as JSON: built from an accessor, [](auto& c) -> auto& { return c.optimizer.lr; }.
struct Field {
    OptionType type;
    std::vector<std::string> choices;  // of an enum
    std::function<nlohmann::ordered_json(const Config&)> get;
    std::function<void(Config&, const nlohmann::json&)> set;  // a value of the right type and range

    template <class Access>
    Field(Access access) {
        using T = std::remove_cvref_t<decltype(access(std::declval<Config&>()))>;
        type = type_of<T>();
        if constexpr (Named<T>)
            for (const auto& [name, value] : Names<T>::list) choices.push_back(name);
        get = [access](const Config& c) { return to_json_value(access(c)); };
        set = [access](Config& c, const nlohmann::json& value) { from_json_value(value, access(c)); };
    }

private:
    template <class T>
    struct Inner {
        using type = T;
    };
    template <class T>
    struct Inner<std::optional<T>> {
        using type = T;
    };
    template <class T>
    static constexpr OptionType type_of() {
        using U = typename Inner<T>::type;
        if constexpr (std::is_same_v<U, bool>) return OptionType::flag;
        if constexpr (Named<U>) return OptionType::choice;
        if constexpr (std::is_integral_v<U>) return OptionType::integer;
        if constexpr (std::is_floating_point_v<U>) return OptionType::number;
        if constexpr (std::is_same_v<U, std::vector<std::string>>) return OptionType::list;
        return OptionType::text;
    }
    template <class T>
    static nlohmann::ordered_json to_json_value(const T& value) {
        if constexpr (Named<T>)
            return name_of(value);
        else
            return value;
    }
    template <class T>
    static nlohmann::ordered_json to_json_value(const std::optional<T>& value) {
        return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
    }
    template <class T>
    static void from_json_value(const nlohmann::json& json, T& value) {
        if constexpr (Named<T>) {
            for (const auto& [name, named] : Names<T>::list)
                if (json == name) value = named;
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
            value = as_list(json).get<T>();
        } else {
            value = json.get<T>();
        }
    }
    template <class T>
    static void from_json_value(const nlohmann::json& json, std::optional<T>& value) {
        value = json.get<T>();
    }
};

// Where an option is accepted.
enum Scope : unsigned {
    kRun = 1,     // train_gpt2, train_gpt2.py
    kModel = 2,   // llmc.GPT2(...), llmc.parametrization(...)
    kSample = 4,  // train_gpt2 sample
    kEval = 8,    // train_gpt2 eval
};

struct Option {
    const char* name;  // "base-width"
    const char* group;
    const char* help;
    Field field;
    unsigned scope = kRun;
    const char* unit = "";                                  // in --help: BLOCKS
    double low = -std::numeric_limits<double>::infinity();  // of numbers, included unless above_low
    double high = std::numeric_limits<double>::infinity();
    bool above_low = false;
    std::vector<std::string> choices = {};   // of a text; an enum has its own
    const char* default_text = "";           // if the default depends on other options
    nlohmann::json off = {};                 // a value that means "not given" (steps: -1)
    std::vector<const char*> excludes = {};  // options that cannot be given together with this one
    std::vector<const char*> replaces = {};  // options of a --config that mean nothing beside this one
    const char* needs = "";                  // an option that must be given too,
    const char* needs_why = "";              // and the reason
    // Schemes under which the option has a meaning (null: all), and those that need it.
    bool (*meant)(const Scheme&) = nullptr;
    bool (*required)(const Scheme&) = nullptr;
    const char* meant_why = "";  // ends "has no meaning under --parametrization sp, which ..."
    bool stored = true;          // in the log and in checkpoints

    std::string key() const;  // "base_width": in JSON and Python
    std::vector<std::string> all_choices() const { return choices.empty() ? field.choices : choices; }
    bool takes_value() const { return field.type != OptionType::flag; }
};

// All options, in the order of --help. table.cpp.
const std::vector<Option>& options();
// By long name or key; null if it does not exist.
const Option* find_option(const std::string& name);
// What nanoGPT, llm.c, transformers and others call an option: a message about such a name translates it.
struct OtherNames {
    const char* option;
    std::vector<const char*> names;
};
const std::vector<OtherNames>& other_names();

// How a message writes the name of an option: --base-width, base-width, base_width.
enum class NameStyle { command_line, toml, python };
// The end of a message about an unknown name: "; did you mean --warmup-steps?", or a hint to --help. Only options of
// one scope.
std::string nearest_option(const std::string& given, Scope scope, NameStyle style);
// The same for a word of the command line, which may also be meant as a command: "smaple".
std::string nearest_argument(const std::string& given, const std::vector<std::string>& commands, Scope scope);

// Depth, width, heads and sequence length of a published model.
struct Preset {
    const char* name;
    int depth, width, heads, seq_len;
};
const std::vector<Preset>& presets();

// The table as JSON, for --options-json: python/llmc/options.json is this text, and train_gpt2.py reads it.
nlohmann::ordered_json options_json();

}  // namespace llmc
