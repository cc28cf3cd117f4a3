#include "llmc/ops/profile.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "llmc/core/format.h"
#include "llmc/ops/device.h"

namespace llmc {
namespace {

std::vector<Profile::Entry>& all() {
    static std::vector<Profile::Entry> entries;
    return entries;
}

}  // namespace

void Profile::measure(const std::string& label, const Cost& cost, const std::function<void()>& work) {
    device::synchronize();
    const auto begin = std::chrono::steady_clock::now();
    work();
    device::synchronize();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    auto found = std::find_if(all().begin(), all().end(), [&](const Entry& e) { return e.op == label; });
    if (found == all().end()) found = all().insert(all().end(), Entry{label, 0, 0, 0, 0});
    found->calls++;
    found->seconds += seconds, found->flops += cost.flops, found->bytes += cost.bytes;
}

std::vector<Profile::Entry> Profile::entries() {
    std::vector<Entry> sorted = all();
    std::sort(sorted.begin(), sorted.end(), [](const Entry& a, const Entry& b) { return a.seconds > b.seconds; });
    return sorted;
}

std::string Profile::table(int64_t steps, double seconds) {
    char line[160];
    std::string out = "profile of " + plural(steps, "step") + ", each op by itself\n";
    std::snprintf(line, sizeof line, "  %-44s %7s %10s %7s %9s %8s\n", "op", "calls", "ms/step", "share", "GFLOP/s",
                  "GB/s");
    out += line;
    double measured = 0;
    for (const Entry& e : entries()) {
        measured += e.seconds;
        std::snprintf(line, sizeof line, "  %-44s %7.1f %10.3f %6.1f%% %9s %8.1f\n", e.op.c_str(),
                      double(e.calls) / double(steps), 1e3 * e.seconds / double(steps), 100 * e.seconds / seconds,
                      e.flops > 0 ? std::to_string(int64_t(e.flops / e.seconds / 1e9)).c_str() : "-",
                      e.bytes / e.seconds / 1e9);
        out += line;
    }
    std::snprintf(line, sizeof line, "  %-44s %7s %10.3f %6.1f%%\n", "the rest (data, zeroing, the loss to the host)",
                  "", 1e3 * (seconds - measured) / double(steps), 100 * (seconds - measured) / seconds);
    return out + line;
}

}  // namespace llmc
