#include "llmc/train/agreement.h"

#include "llmc/core/error.h"
#include "llmc/train/data_parallel.h"
#include "llmc/train/resume.h"

namespace llmc {
namespace {

using nlohmann::json;

json record_of(const Setup& s) {
    json options = to_json(s.config);
    for (const char* key : {"threads", "train_data", "val_data"}) options.erase(key);  // may differ: paths
    return {{"options", options},
            {"exchanged_bytes", exchanged_bytes()},
            {"steps", s.steps},
            {"finished", s.finished},
            {"model", to_json(s.shape)},
            {"checkpoint", s.weights ? json(s.weights->step) : json()},
            {"train", fingerprint(s.train.get())},
            {"val", fingerprint(s.val.get())}};
}

// "lr 0.02, not 0.01"; empty if nothing differs.
std::string difference_of(const json& theirs, const json& ours) {
    for (const auto& [key, value] : ours.at("options").items())
        if (theirs.at("options").value(key, json()) != value)
            return str("has --", find_option(key)->name, " ", shown(theirs.at("options").value(key, json())), ", not ",
                       shown(value));
    for (const auto& [key, name] : {std::pair{"train", "training"}, std::pair{"val", "validation"}}) {
        if (theirs.at(key).is_null() != ours.at(key).is_null())
            return str("has other ", name, " data: none on one side");
        if (const std::string change = difference(ours.at(key), theirs.at(key)); !change.empty())
            return str("has other ", name, " data: ", change);
    }
    if (theirs.at("checkpoint") != ours.at("checkpoint"))
        return str("starts from the checkpoint of step ", theirs.at("checkpoint").dump(), ", not ",
                   ours.at("checkpoint").dump(), ": all hosts must see the same --out");
    if (theirs.at("exchanged_bytes") != ours.at("exchanged_bytes"))
        return str("has LLMC_EXCHANGED_BYTES ", theirs.at("exchanged_bytes").dump(), ", not ",
                   ours.at("exchanged_bytes").dump());
    return theirs == ours ? "" : "differs in its length or model";
}

}  // namespace

void check_agreement(const Setup& setup, Group& group) {
    const std::vector<std::string> all = group.control().all_gather(record_of(setup).dump());
    const json ours = json::parse(all[0]);
    for (size_t r = 1; r < all.size(); ++r) {
        const std::string what = difference_of(json::parse(all[r]), ours);
        if (what.empty()) continue;
        const std::string reason = str(what, " (as rank 0 on ", group.hosts()[0], "): give all processes the same");
        if (int(r) == group.rank()) throw Error(kExitUsage, reason);
        throw ElsewhereError(reason);
    }
}

}  // namespace llmc
