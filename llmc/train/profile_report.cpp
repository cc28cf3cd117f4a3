#include "llmc/train/profile_report.h"

#include <algorithm>
#include <cstdio>

#include "llmc/ops/profile.h"

namespace llmc {
namespace {

// The share of the exchange during which the program computed.
double hidden(const Comm::Times& t) { return t.all > 0 ? std::clamp(1 - t.waited / t.all, 0.0, 1.0) : 0; }

}  // namespace

nlohmann::ordered_json profile_json(int64_t steps, double seconds, const std::optional<Comm::Times>& exchanged) {
    nlohmann::ordered_json ops = nlohmann::ordered_json::array();
    for (const Profile::Entry& e : Profile::entries())
        ops.push_back({{"op", e.op},
                       {"calls", double(e.calls) / double(steps)},
                       {"ms", 1e3 * e.seconds / double(steps)},
                       {"share", e.seconds / seconds},
                       {"gflops", e.flops / e.seconds / 1e9},
                       {"gb_per_second", e.bytes / e.seconds / 1e9}});
    nlohmann::ordered_json out = {{"steps", steps}, {"ms", 1e3 * seconds / double(steps)}, {"ops", ops}};
    if (exchanged)
        out["exchange"] = {{"ms", 1e3 * exchanged->all / double(steps)},
                           {"waited_ms", 1e3 * exchanged->waited / double(steps)},
                           {"hidden", hidden(*exchanged)},
                           {"bytes", exchanged->bytes / double(steps)}};
    return out;
}

std::string profile_text(int64_t steps, double seconds, const std::optional<Comm::Times>& exchanged) {
    std::string text = Profile::table(steps, seconds);
    text.pop_back();
    if (!exchanged) return text;
    char line[200];
    std::snprintf(line, sizeof line,
                  "\nexchange %.3f ms/step for %.1f MB, %.3f ms of it waited for: %.0f%% hidden behind other work",
                  1e3 * exchanged->all / double(steps), exchanged->bytes / double(steps) / 1e6,
                  1e3 * exchanged->waited / double(steps), 100 * hidden(*exchanged));
    return text + line;
}

}  // namespace llmc
