// What a container may use, by Linux control groups of version 1 and 2.
#pragma once
#include <cstdint>
#include <string>

namespace llmc {

struct CgroupLimits {
    double cpus;      // quota per period; infinity: none
    uint64_t memory;  // bytes; UINT64_MAX: none
};

// The smallest limits of this process's group and the groups above it. root: "" or, in tests, a folder with a copy of
// /proc/self/cgroup and of the files below /sys/fs/cgroup.
CgroupLimits cgroup_limits(const std::string& root = "");

}  // namespace llmc
