#include "llmc/core/threads.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>

#include "llmc/core/error.h"

namespace llmc {
namespace {

// The cores of the affinity mask, limited by the container's quota if it has one ("200000 100000" = 2 cores).
int usable_cores() {
    int cores = omp_get_num_procs();
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
    std::ifstream file("/sys/fs/cgroup/cpu.max");
    double quota, period;
    if (file >> quota >> period && quota > 0 && period > 0)
        cores = std::min(cores, std::max(1, int(std::ceil(quota / period))));
    return std::max(cores, 1);
}

}  // namespace

int set_host_threads(int wanted) {
    if (wanted < 0) fail_usage("the number of threads is ", wanted, ", it must be 0 (one per core) or more");
    // An OMP_NUM_THREADS in the environment is already in omp_get_max_threads().
    if (wanted == 0) wanted = std::getenv("OMP_NUM_THREADS") ? omp_get_max_threads() : usable_cores();
    omp_set_num_threads(wanted);  // for oneDNN too
    return wanted;
}

}  // namespace llmc
