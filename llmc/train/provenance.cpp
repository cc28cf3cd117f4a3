#include "llmc/train/provenance.h"

#include <unistd.h>

#include <ctime>

#include "llmc/core/version.h"
#include "llmc/ops/device.h"

namespace llmc {

nlohmann::ordered_json provenance(const std::string& program, const std::string& data_sha256) {
    char host[256] = "unknown", time_text[64];
    gethostname(host, sizeof host - 1);
    const std::time_t now = std::time(nullptr);
    std::strftime(time_text, sizeof time_text, "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
    return {{"program", program},    {"version", kVersion},          {"commit", kGitCommit},
            {"compiler", kCompiler}, {"backend", device::backend()}, {"device", device::name()},
            {"host", host},          {"data_sha256", data_sha256},   {"started", time_text}};
}

}  // namespace llmc
