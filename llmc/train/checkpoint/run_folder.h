// The folder of a run, --out: its lock, its checkpoints and which of them are intact, how the run ended.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace llmc {

// One process at a time writes into a run's folder. The lock is flock's on OUT/.lock: it ends with the process, however
// that ends, and NFS passes it on to the server. train_gpt2.py takes the same one.
class RunLock {
public:
    RunLock() = default;
    RunLock(RunLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    RunLock& operator=(RunLock&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~RunLock();

    // Takes the lock if OUT/.lock exists; writes nothing. Error that names the process that has it.
    void take_existing(const std::string& out);
    // Takes the lock of a folder that exists, unless this object has it already, and writes who has it. Returns a
    // sentence to say if the file system has no locks, otherwise nothing.
    std::string take(const std::string& out);

private:
    std::string lock(const std::string& out);
    int fd_ = -1;
};

// Folders OUT/checkpoints/step_00000010, oldest first.
std::vector<std::string> checkpoints_in(const std::string& out);
std::optional<std::string> newest_checkpoint(const std::string& out);

struct DamagedCheckpoint {
    std::string folder, reason;
};
struct IntactCheckpoint {
    std::optional<std::string> folder;       // the newest intact one
    std::vector<DamagedCheckpoint> damaged;  // newer than that, newest first
};
struct Search {
    std::string before = {};                    // only checkpoints that are older than the one of this name
    bool with_values = false;                   // false: only headers, sizes and metadata of both files
    std::vector<DamagedCheckpoint> known = {};  // what reading their values has found
};
IntactCheckpoint newest_intact_checkpoint(const std::string& out, const Search& search = {});

// Deletes all but the newest `keep` checkpoints, and that of step `best` (-1: none).
void prune_checkpoints(const std::string& out, int keep, int64_t best);
// What killed runs left, and checkpoints that are damaged: these are renamed, so that they do not count as new ones.
void tidy_checkpoints(const std::string& out, const std::vector<DamagedCheckpoint>& damaged);
// Points OUT/checkpoints/best to the checkpoint of a step.
void mark_best_checkpoint(const std::string& out, int64_t step);
std::string checkpoint_name(int64_t step);  // step_00000010

// The last event in the log; {} if there is none.
nlohmann::json last_event(const std::string& out);
// The options of the run: of its newest intact checkpoint, without one of its log; null if there is neither. `source`:
// the file they come from.
nlohmann::json stored_config(const std::string& out, std::string& source);

}  // namespace llmc
