// The run's log, one JSON object per line (doc/formats.md).
#pragma once
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace llmc {

class Logger {
public:
    Logger() = default;  // writes nothing
    // Appends to OUT/log.jsonl, after dropping what an interrupted run wrote past `resume_step` (-1: nothing is kept).
    // With `writes` false it only reads what at_resume() knows: for processes that do not write the log.
    Logger(const std::string& out, int64_t resume_step, bool writes = true);

    // Adds "event" and "step" in front, writes the line and flushes.
    void write(const std::string& event, int64_t step, const nlohmann::ordered_json& fields);
    const std::string& path() const { return path_; }
    // The event of this kind at the step that the run continues from.
    // {} if there was none.
    nlohmann::ordered_json at_resume(const std::string& event) const {
        return at_resume_.value(event, nlohmann::ordered_json::object());
    }

private:
    std::string path_;
    nlohmann::ordered_json at_resume_ = nlohmann::ordered_json::object();
    std::ofstream file_;
};

}  // namespace llmc
