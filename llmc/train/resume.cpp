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

// A shard of a fingerprint. Shards of several folders may have the same name.
struct Entry {
    std::string name;
    int64_t tokens;
    std::string content;  // empty: not compared
    std::string label;    // the name, and its place in the data set if the name is not the only one
    bool operator==(const Entry& other) const {
        return name == other.name && tokens == other.tokens && content == other.content;
    }
};

std::vector<Entry> entries_of(const json& data, bool with_content) {
    const json& shards = data.at("shards");
    std::map<std::string, int> count;
    for (const json& shard : shards) ++count[shard.at(0)];
    std::vector<Entry> entries;
    for (size_t i = 0; i < shards.size(); ++i) {
        const std::string name = shards[i].at(0);
        entries.push_back({name, shards[i].at(1), with_content ? data.at("content").at(i).get<std::string>() : "",
                           count[name] > 1 ? str(name, " (shard ", i + 1, " of ", shards.size(), ")") : name});
    }
    return entries;
}

// Those of `all` that `others` lacks; each of the others stands for one.
std::vector<Entry> without(const std::vector<Entry>& all, std::vector<Entry> others) {
    std::vector<Entry> left;
    for (const Entry& entry : all) {
        const auto same = std::find(others.begin(), others.end(), entry);
        if (same == others.end())
            left.push_back(entry);
        else
            others.erase(same);
    }
    return left;
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
    json shards = json::array(), content = json::array();
    for (const Shard& shard : data->shards()) {
        shards.push_back({std::filesystem::path(shard.path).filename().string(), shard.tokens});
        content.push_back(shard.content_sha256());
    }
    return {{"sha256", data->source_sha256()}, {"shards", shards}, {"content", content}};
}

std::string difference(const json& then, const json& now) {
    if (then.is_null() || now.is_null()) return "";
    const bool with_content = then.contains("content") && now.contains("content");  // earlier versions wrote none
    const std::vector<Entry> before = entries_of(then, with_content), after = entries_of(now, with_content);
    if (before == after) return then.at("sha256") == now.at("sha256") ? "" : "made from another text (SHA-256)";
    std::vector<Entry> added = without(after, before);
    std::vector<std::string> missing, added_names, other_content, parts;
    std::string other_tokens;  // the first
    for (const Entry& entry : without(before, after)) {
        const auto same = std::find_if(added.begin(), added.end(),
                                       [&](const Entry& e) { return e.name == entry.name; });
        if (same == added.end()) {
            missing.push_back(entry.label);
            continue;
        }
        if (same->tokens == entry.tokens)
            other_content.push_back(same->label);
        else if (other_tokens.empty())
            other_tokens = str(same->label, " has ", plural(same->tokens, "token"), ", not ",
                               with_commas(entry.tokens));
        added.erase(same);
    }
    for (const Entry& entry : added) added_names.push_back(entry.label);
    if (!missing.empty()) parts.push_back("without " + names(missing));
    if (!added_names.empty()) parts.push_back("with " + names(added_names));
    if (!other_tokens.empty()) parts.push_back(other_tokens);
    if (!other_content.empty()) parts.push_back("other content in " + names(other_content));
    std::string text;
    if (after.size() != before.size())
        text = str(plural(int64_t(after.size()), "shard"), ", not ", before.size(), ": ");
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
