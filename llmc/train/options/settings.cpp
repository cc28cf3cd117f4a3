#include "llmc/train/options/settings.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "llmc/core/error.h"
#include "llmc/train/options/numbers.h"

namespace llmc {
namespace {

using nlohmann::json;

std::string join(const std::vector<std::string>& words, const std::string& between) {
    std::string out;
    for (const std::string& word : words) out += (out.empty() ? "" : between) + word;
    return out;
}

std::string range_of(const Option& o) {
    if (std::isfinite(o.high))
        return o.above_low ? "greater than " + short_number(o.low) + " and at most " + short_number(o.high)
                           : "between " + short_number(o.low) + " and " + short_number(o.high);
    return (o.above_low ? "greater than " : "at least ") + short_number(o.low);
}

std::string quoted(const json& value) { return "'" + shown(value) + "'"; }

std::string limit_of_int64(bool negative) {
    return negative ? str("at least ", std::numeric_limits<int64_t>::min())
                    : str("at most ", std::numeric_limits<int64_t>::max());
}

void check_number(const Option& o, const json& value, const std::string& where) {
    const bool whole = o.field.type == OptionType::integer;
    if (!value.is_number())
        fail_usage(where, ": ", quoted(value), whole ? " is not a whole number" : " is not a number");
    const double number = value.get<double>();
    if (!std::isfinite(number)) fail_usage(where, ": ", quoted(value), " is not a finite number");
    if (whole && number != std::floor(number)) fail_usage(where, ": ", quoted(value), " is not a whole number");
    const bool too_large = value.is_number_unsigned() ? value.get<uint64_t>() > uint64_t(INT64_MAX)
                                                      : value.is_number_float() && number >= 0x1p63;
    if (whole && (too_large || number < -0x1p63))
        fail_usage(where, ": ", quoted(value), " is out of range: ", limit_of_int64(number < 0));
    if (number < o.low || number > o.high || (o.above_low && number == o.low))
        fail_usage(where, ": ", quoted(value), " is out of range: ", range_of(o));
}

void check_list(const json& value, const std::string& where) {
    for (const json& item : as_list(value).is_array() ? as_list(value) : json::array({value}))
        if (!item.is_string() || item == "")
            fail_usage(where, ": ", quoted(item), item == "" ? " is empty: leave it out" : " is not a text");
}

void apply_preset(Config& config) {
    for (const Preset& p : presets())
        if (config.model.preset == p.name) {
            config.model.depth = p.depth, config.model.width = p.width, config.model.heads = p.heads;
            config.model.seq_len = p.seq_len;
        }
}

// Whether an option is given with a value that has an effect.
bool in_use(const Option& option, const Config& config, const Given& given) {
    if (!given.has(option.name)) return false;
    return has_effect(option, option.field.get(config));
}

std::string names_of_schemes(bool (*holds)(const Scheme&)) {
    std::vector<std::string> names;
    for (const Scheme& scheme : Parametrization::schemes())
        if (holds(scheme)) names.push_back(scheme.name);
    if (names.size() < 2) return join(names, "");
    const std::string last = names.back();
    names.pop_back();
    return join(names, ", ") + " or " + last;
}

void check_scheme(const Option& option, const Config& config, const Given& given) {
    const Scheme& scheme = Parametrization::scheme(config.mup.scheme);
    const bool used = in_use(option, config, given);
    if (option.meant && used && !option.meant(scheme))
        fail_usage("--", option.name, option.takes_value() ? " " + shown(option.field.get(config)) : "",
                   " has no meaning under --parametrization ", scheme.name, ", ", option.meant_why,
                   ": leave it out, or choose ", names_of_schemes(option.meant));
    if (option.required && !has_effect(option, option.field.get(config)) && option.required(scheme))
        fail_usage("--parametrization ", scheme.name, " needs --", option.name,
                   ": the value at which your learning rate was tuned (that of the model itself for the base model)");
}

}  // namespace

std::string shown(const json& value) {
    if (value.is_string()) return value.get<std::string>();
    if (value.is_number_float()) return short_number(value);
    if (!value.is_array()) return value.is_object() || value.is_null() ? "..." : value.dump();
    std::vector<std::string> items;
    for (const json& item : value) items.push_back(shown(item));
    return "[" + join(items, ", ") + "]";
}

bool has_effect(const Option& option, const json& value) {
    return value != nullptr && value != false && value != "" && value != json::array() &&
           (option.off.is_null() || value != option.off);
}

json parse_text(const Option& o, const std::string& text, const std::string& where) {
    if (o.field.type != OptionType::integer && o.field.type != OptionType::number) return text;
    const bool whole = o.field.type == OptionType::integer;
    const std::optional<Decimal> number = Decimal::read(text);
    if (!number || (whole && !number->whole()))
        fail_usage(where, ": '", text, whole ? "' is not a whole number" : "' is not a number");
    if (!whole) {
        const double value = number->to_double();
        if (!std::isfinite(value)) fail_usage(where, ": '", text, "' is not a finite number");
        return value;
    }
    const std::optional<int64_t> value = number->to_int64();
    if (!value) fail_usage(where, ": '", text, "' is out of range: ", limit_of_int64(number->negative));
    return *value;
}

void check_value(const Option& o, const json& value, const std::string& where) {
    switch (o.field.type) {
        case OptionType::flag:
            if (!value.is_boolean()) fail_usage(where, ": ", quoted(value), " is not true or false");
            return;
        case OptionType::integer:
        case OptionType::number:
            return check_number(o, value, where);
        case OptionType::list:
            return check_list(value, where);
        default:
            break;
    }
    const std::vector<std::string> choices = o.all_choices();
    if (!value.is_string())
        fail_usage(where, ": ", quoted(value),
                   choices.empty() ? " is not a text" : " is not one of " + join(choices, "|"));
    if (!choices.empty() && std::find(choices.begin(), choices.end(), value.get<std::string>()) == choices.end())
        fail_usage(where, ": ", quoted(value), " is not one of ", join(choices, "|"));
}

Config make_config(std::vector<Setting> settings, Given& given) {
    Config config;
    for (Setting& s : settings) {
        if (s.value.is_null()) continue;
        const OptionType type = s.option->field.type;
        const bool number = type == OptionType::integer || type == OptionType::number;
        if (number && s.value.is_string()) s.value = parse_text(*s.option, s.value, s.where);  // width = "64"
        check_value(*s.option, s.value, s.where);
        if (std::string(s.option->name) == "preset") s.option->field.set(config, s.value);
    }
    apply_preset(config);
    for (const Setting& s : settings) {
        if (s.value.is_null()) continue;
        s.option->field.set(config, s.value);
        given.add(*s.option);
    }
    validate(config, given);
    EvaluationOptions& e = config.evaluation;
    if (!e.tokens && !e.batches) e.tokens = kEvalTokens;
    return config;
}

void validate_scheme(const Config& config, const Given& given) {
    for (const Option& option : options()) check_scheme(option, config, given);
}

void validate(const Config& config, const Given& given) {
    if (config.model.init.empty()) validate_scheme(config, given);
    for (const Option& option : options()) {
        if (!in_use(option, config, given)) continue;
        for (const char* other : option.excludes)
            if (in_use(*find_option(other), config, given))
                fail_usage("--", option.name, " excludes --", other, ": give one of the two");
        if (*option.needs && !in_use(*find_option(option.needs), config, given))
            fail_usage("--", option.name, option.takes_value() ? " " + shown(option.field.get(config)) : "",
                       " needs --", option.needs, ": ", option.needs_why);
    }
}

void check_storable(const Config& config) {
    for (const Option& option : options())
        for (const json& item : as_list(option.field.get(config))) {
            const std::string text = item.dump(-1, ' ', false, json::error_handler_t::replace);
            if (item.is_string() && json::parse(text) != item)
                fail_usage("--", option.name, " ", text,
                           " is not UTF-8, as the log and checkpoints are: give other text");
        }
}

void resolve_heads(Config& config) {
    ModelOptions& m = config.model;
    if (m.head_dim) {
        if (m.width % *m.head_dim) fail_usage("--head-dim ", *m.head_dim, " does not divide --width ", m.width);
        m.heads = m.width / *m.head_dim;
        m.head_dim.reset();
    }
    if (m.width % m.heads) fail_usage("--heads ", m.heads, " does not divide --width ", m.width, "; choose a divisor");
}

void resolve_batch(Config& c, int ranks) {
    if (!c.optimizer.grad_clip) c.optimizer.grad_clip = Parametrization::scheme(c.mup.scheme).grad_clip;
    const int64_t micro = int64_t{c.run.batch_size} * c.model.seq_len * ranks;
    int64_t& total = c.run.total_batch_size;
    if (total == 0) total = micro;
    if (total % micro)
        fail_usage("--total-batch-size ", total, " is not a multiple of --batch-size x --seq-len",
                   ranks > 1 ? " x processes" : "", " = ", micro, " tokens; the nearest are ",
                   std::max<int64_t>(1, total / micro) * micro, " and ", (total / micro + 1) * micro);
    if (!c.output.coord_check.empty() && total != micro)
        fail_usage("--coord-check ", c.output.coord_check, " looks at one micro-batch a step, this run has ",
                   total / micro, ": leave --total-batch-size out");
}

}  // namespace llmc
