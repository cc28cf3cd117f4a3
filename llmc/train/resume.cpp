#include "llmc/train/resume.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/train/checkpoint/run_folder.h"

namespace llmc {
namespace {

using nlohmann::json;

// "a.bin, b.bin, c.bin and 4 more"
std::string names(const std::vector<std::string>& all) {
    std::string text;
    for (size_t i = 0; i < std::min<size_t>(all.size(), 3); ++i) text += (i ? ", " : "") + all[i];
    return all.size() > 3 ? str(text, " and ", all.size() - 3, " more") : text;
}

std::map<std::string, int64_t> tokens_of(const json& data) {
    std::map<std::string, int64_t> tokens;
    for (const json& shard : data.at("shards")) tokens[shard.at(0)] = shard.at(1);
    return tokens;
}

}  // namespace

std::vector<Setting> stored_settings(const std::string& out) {
    std::string source;
    const json config = stored_config(out, source);
    if (!config.is_object()) return {};
    const auto text_of = [&](const char* key) { return config.contains(key) ? config.at(key) : json(); };
    const Scheme* scheme = nullptr;
    for (const Scheme& s : Parametrization::schemes())
        if (text_of("parametrization") == s.name) scheme = &s;
    // one micro-batch is the default, also of another --batch-size
    const bool default_total = text_of("batch_size").is_number_integer() && text_of("seq_len").is_number_integer() &&
                               text_of("total_batch_size") ==
                                   text_of("batch_size").get<int64_t>() * text_of("seq_len").get<int64_t>();
    std::vector<Setting> settings;
    for (const Option& option : options()) {
        const std::string name = option.name;
        const bool own = name == "out" || name == "resume" || name == "overwrite" || name == "allow-data-change";
        if (own || !option.stored || !config.contains(option.key()) || config.at(option.key()).is_null()) continue;
        if (config.at(option.key()) == "") continue;                     // not given
        if (option.meant && scheme && !option.meant(*scheme)) continue;  // a default without a meaning
        if (name == "total-batch-size" && default_total) continue;
        settings.push_back({&option, config.at(option.key()), str(source, ": --", name)});
    }
    return settings;
}

json fingerprint(const Dataset* data) {
    if (!data) return nullptr;
    json shards = json::array();
    for (const Shard& shard : data->shards())
        shards.push_back({std::filesystem::path(shard.path).filename().string(), shard.tokens});
    return {{"sha256", data->source_sha256()}, {"shards", shards}};
}

std::string difference(const json& then, const json& now) {
    if (then.is_null() || now.is_null() || then == now) return "";
    const std::map<std::string, int64_t> before = tokens_of(then), after = tokens_of(now);
    std::vector<std::string> missing, added, parts;
    for (auto& [name, tokens] : before)
        if (!after.contains(name)) missing.push_back(name);
    for (auto& [name, tokens] : after)
        if (!before.contains(name)) added.push_back(name);
    if (!missing.empty()) parts.push_back("without " + names(missing));
    if (!added.empty()) parts.push_back("with " + names(added));
    for (auto& [name, tokens] : after)
        if (before.contains(name) && before.at(name) != tokens) {
            parts.push_back(str(name, " has ", plural(tokens, "token"), ", not ", with_commas(before.at(name))));
            break;
        }
    if (then.at("sha256") != now.at("sha256")) parts.push_back("made from another text (SHA-256)");
    std::string text = str(plural(int64_t(after.size()), "shard"), ", not ", before.size(), ": ");
    if (after.size() == before.size()) text = "";
    for (size_t i = 0; i < parts.size(); ++i) text += (i ? "; " : "") + parts[i];
    return parts.empty() ? text + "in another order" : text;
}

std::string why_finished(const std::string& out, const Config& config, int64_t step, int64_t steps) {
    const json last = last_event(out);
    if (!last.is_object() || last.value("event", json()) != "final" || last.value("step", json()) != step) return "";
    const json reason = last.value("reason", json());
    if (reason == "done" && step == steps)
        return str("the run in ", out, " is finished: it did ", steps == 1 ? "its " : "all of its ",
                   plural(steps, "step"), "; to go on, raise --steps");
    if (reason == "early_stop" && last.value("early_stop", json()) == config.evaluation.early_stop)
        return str("the run in ", out, " is finished: it stopped early at step ", step, "; to go on, raise ",
                   "--early-stop, or give 0");
    return "";
}

}  // namespace llmc
