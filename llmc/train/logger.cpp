#include "llmc/train/logger.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "llmc/core/error.h"

namespace llmc {

using nlohmann::ordered_json;

Logger::Logger(const std::string& out, int64_t resume_step, bool writes) : path_(out + "/log.jsonl") {
    std::string kept;
    if (resume_step >= 0) {
        std::ifstream in(path_);
        for (std::string line; std::getline(in, line);) {
            const ordered_json event = ordered_json::parse(line, nullptr, false);
            const bool whole = event.is_object() && event.contains("step") && event.contains("event");
            if (!whole || event["event"] == "final" || event["step"].get<int64_t>() > resume_step) continue;
            kept += line + "\n";
            if (event["step"] == resume_step) at_resume_[event["event"].get<std::string>()] = event;
        }
    }
    if (!writes) {
        path_.clear();
        return;
    }
    const std::string temporary = path_ + ".tmp";
    file_.open(temporary, std::ios::trunc);
    file_ << kept << std::flush;
    if (!file_) fail("cannot write ", temporary, ": ", std::strerror(errno));
    std::filesystem::rename(temporary, path_);
}

void Logger::write(const std::string& event, int64_t step, const ordered_json& fields) {
    if (path_.empty()) return;
    ordered_json line = {{"event", event}, {"step", step}};
    for (auto& [key, value] : fields.items())
        // JSON has no NaN
        line[key] = value.is_number_float() && !std::isfinite(value.get<double>()) ? ordered_json(nullptr) : value;
    file_ << line.dump(-1, ' ', false, ordered_json::error_handler_t::replace) << "\n" << std::flush;
    if (!file_) fail("cannot write ", path_, ": ", std::strerror(errno), "; free some space, or choose another --out");
}

}  // namespace llmc
