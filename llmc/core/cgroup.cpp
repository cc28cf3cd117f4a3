#include "llmc/core/cgroup.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

namespace llmc {
namespace {

namespace fs = std::filesystem;

// The folder of a group and those above it, up to the mount point, which in a container is the container's own group.
template <class Read>
void for_each_level(const fs::path& mount, const std::string& group, Read&& read) {
    fs::path path = fs::path(group).relative_path();
    for (; !path.empty(); path = path.parent_path()) read(mount / path);
    read(mount);
}

// {number} or {number, number}; false for a file that is absent or begins with a word, such as "max" for no limit.
template <class... T>
bool read_numbers(const fs::path& path, T&... values) {
    std::ifstream file(path);
    return bool((file >> ... >> values));
}

class Limits {
public:
    CgroupLimits found{std::numeric_limits<double>::infinity(), UINT64_MAX};

    void read_v2(const fs::path& folder) {
        double quota, period;
        uint64_t bytes;
        if (read_numbers(folder / "cpu.max", quota, period)) add_cpus(quota, period);
        if (read_numbers(folder / "memory.max", bytes)) found.memory = std::min(found.memory, bytes);
    }
    void read_v1_cpu(const fs::path& folder) {
        double quota, period;
        if (read_numbers(folder / "cpu.cfs_quota_us", quota) && read_numbers(folder / "cpu.cfs_period_us", period))
            add_cpus(quota, period);
    }
    void read_v1_memory(const fs::path& folder) {
        uint64_t bytes;
        if (read_numbers(folder / "memory.limit_in_bytes", bytes)) found.memory = std::min(found.memory, bytes);
    }

private:
    void add_cpus(double quota, double period) {  // -1: no quota
        if (quota > 0 && period > 0) found.cpus = std::min(found.cpus, quota / period);
    }
};

}  // namespace

CgroupLimits cgroup_limits(const std::string& root) {
    const fs::path mounts = root + "/sys/fs/cgroup";
    Limits limits;
    std::ifstream groups(root + "/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {  // "4:cpu,cpuacct:/docker/1f", "0::/user.slice"
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1), group = line.substr(second + 1);
        if (controllers.empty())
            for (const fs::path& mount : {mounts, mounts / "unified"})
                for_each_level(mount, group, [&](const fs::path& folder) { limits.read_v2(folder); });
        std::istringstream names(controllers);
        for (std::string name; std::getline(names, name, ',');)
            for (const fs::path& mount : {mounts / name, mounts / controllers}) {
                if (name == "cpu")
                    for_each_level(mount, group, [&](const fs::path& folder) { limits.read_v1_cpu(folder); });
                if (name == "memory")
                    for_each_level(mount, group, [&](const fs::path& folder) { limits.read_v1_memory(folder); });
            }
    }
    return limits.found;
}

}  // namespace llmc
