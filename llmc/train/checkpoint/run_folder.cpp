#include "llmc/train/checkpoint/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>

#include "llmc/core/error.h"
#include "llmc/train/checkpoint/checkpoint.h"

namespace llmc {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path lock_file(const std::string& out) { return fs::path(out) / ".lock"; }

bool is_checkpoint_name(const std::string& name) {
    return name.starts_with("step_") && name.size() > 5 && name.find_first_not_of("0123456789", 5) == std::string::npos;
}

// Why a checkpoint cannot be resumed from; empty if it can.
std::string damage_of(const std::string& folder, bool with_values) {
    try {
        check_complete(*ModelFile::open_file(folder), with_values);
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}

}  // namespace

RunLock::~RunLock() {
    if (fd_ >= 0) close(fd_);
}

std::string RunLock::lock(const std::string& out) {
    if (flock(fd_, LOCK_EX | LOCK_NB) == 0) return "";
    const int problem = errno;
    if (problem != EWOULDBLOCK)
        return str("--out ", out, " is on a file system without locks (", std::strerror(problem),
                   "): make sure that no other run writes there");
    std::string holder;
    std::ifstream in(lock_file(out));
    std::getline(in, holder);
    close(std::exchange(fd_, -1));
    fail("--out ", out, " is in use by ", holder.empty() ? "another process" : holder,
         ": wait until it ends, or choose another folder");
}

void RunLock::take_existing(const std::string& out) {
    if (out.empty() || fd_ >= 0) return;
    fd_ = open(lock_file(out).c_str(), O_RDWR | O_CLOEXEC);
    if (fd_ >= 0) lock(out);
}

std::string RunLock::take(const std::string& out) {
    if (fd_ < 0) fd_ = open(lock_file(out).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) fail("cannot write to --out ", out, ": ", std::strerror(errno));
    const std::string problem = lock(out);
    char host[256] = "unknown", time_text[64];
    gethostname(host, sizeof host - 1);
    const std::time_t now = std::time(nullptr);
    std::strftime(time_text, sizeof time_text, "%Y-%m-%d %H:%M:%S UTC", std::gmtime(&now));
    const std::string who = str("process ", getpid(), " on ", host, " (train_gpt2, since ", time_text, ")\n");
    if (ftruncate(fd_, 0) != 0 || pwrite(fd_, who.data(), who.size(), 0) != ssize_t(who.size()))
        fail("cannot write to --out ", out, ": ", std::strerror(errno));
    return problem;
}

std::string checkpoint_name(int64_t step) {
    char name[32];
    std::snprintf(name, sizeof name, "step_%08lld", static_cast<long long>(step));
    return name;
}

std::vector<std::string> checkpoints_in(const std::string& out) {
    const fs::path folder = fs::path(out) / "checkpoints";
    std::vector<std::string> found;
    std::error_code none;
    for (auto& entry : fs::directory_iterator(folder, none))
        if (is_checkpoint_name(entry.path().filename().string()) && entry.is_directory())
            found.push_back(entry.path().string());
    std::sort(found.begin(), found.end());
    return found;
}

std::optional<std::string> newest_checkpoint(const std::string& out) {
    const std::vector<std::string> all = checkpoints_in(out);
    if (all.empty()) return std::nullopt;
    return all.back();
}

IntactCheckpoint newest_intact_checkpoint(const std::string& out, const Search& search) {
    std::vector<std::string> all = checkpoints_in(out);
    IntactCheckpoint found;
    for (auto folder = all.rbegin(); folder != all.rend(); ++folder) {
        if (!search.before.empty() && fs::path(*folder).filename() >= search.before) continue;
        const auto known = std::find_if(search.known.begin(), search.known.end(),
                                        [&](const DamagedCheckpoint& d) { return d.folder == *folder; });
        const std::string reason = known != search.known.end() ? known->reason : damage_of(*folder, search.with_values);
        if (reason.empty()) {
            found.folder = *folder;
            break;
        }
        found.damaged.push_back({*folder, reason});
    }
    return found;
}

// Renamed first: a checkpoint that is being deleted must not look like a whole one.
void prune_checkpoints(const std::string& out, int keep, int64_t best) {
    const std::vector<std::string> all = checkpoints_in(out);
    for (size_t i = 0; i + size_t(keep) < all.size(); ++i) {
        const fs::path old = all[i];
        if (best >= 0 && old.filename() == checkpoint_name(best)) continue;
        const fs::path leaving = old.parent_path() / (".old-" + old.filename().string());
        fs::rename(old, leaving);
        fs::remove_all(leaving);
    }
}

void tidy_checkpoints(const std::string& out, const std::vector<DamagedCheckpoint>& damaged) {
    std::error_code ignored;
    std::vector<fs::path> left;
    for (auto& entry : fs::directory_iterator(fs::path(out) / "checkpoints", ignored))
        for (const char* start : {".tmp-step_", ".old-step_"})
            if (entry.path().filename().string().starts_with(start)) left.push_back(entry.path());
    for (const fs::path& path : left) fs::remove_all(path, ignored);
    for (const DamagedCheckpoint& d : damaged) {
        const fs::path folder = d.folder, aside = folder.parent_path() / ("damaged-" + folder.filename().string());
        fs::remove_all(aside, ignored);
        fs::rename(folder, aside, ignored);
    }
}

void mark_best_checkpoint(const std::string& out, int64_t step) {
    const fs::path folder = fs::path(out) / "checkpoints", temporary = folder / ".tmp-best";
    std::error_code ignored;  // a file system without links: the log says which it is
    fs::remove(temporary, ignored);
    fs::create_directory_symlink(checkpoint_name(step), temporary, ignored);
    fs::rename(temporary, folder / "best", ignored);
}

json last_event(const std::string& out) {
    std::ifstream in(fs::path(out) / "log.jsonl");
    std::string line, last;
    while (std::getline(in, line))
        if (!in.eof()) last = line;  // otherwise it is incomplete
    const json event = json::parse(last, nullptr, false);
    return event.is_object() ? event : json::object();
}

json stored_config(const std::string& out, std::string& source) {
    const IntactCheckpoint found = newest_intact_checkpoint(out);
    if (found.folder) {
        source = *found.folder;
        return ModelFile::open_file(source)->config;
    }
    source = (fs::path(out) / "log.jsonl").string();
    std::ifstream in(source);
    json config;
    for (std::string line; std::getline(in, line);) {
        if (line.find("\"event\":\"config\"") == std::string::npos &&
            line.find("\"event\": \"config\"") == std::string::npos)
            continue;
        const json event = json::parse(line, nullptr, false);
        if (event.is_object() && event.contains("config")) config = event["config"];
    }
    return config;
}

}  // namespace llmc
