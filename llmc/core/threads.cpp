#include "llmc/core/threads.h"

#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "llmc/core/cgroup.h"
#include "llmc/core/error.h"

namespace llmc {
namespace {

int g_threads = 0;
std::string g_reason;

// The CPUs of OpenMP's places; empty without OMP_PROC_BIND, OMP_PLACES or GOMP_CPU_AFFINITY.
std::vector<int> cpus_of_places() {
    std::vector<int> cpus;
    if (omp_get_proc_bind() == omp_proc_bind_false) return cpus;
    for (int place = 0; place < omp_get_num_places(); ++place) {
        std::vector<int> ids(size_t(omp_get_place_num_procs(place)));
        omp_get_place_proc_ids(place, ids.data());
        cpus.insert(cpus.end(), ids.begin(), ids.end());
    }
    std::sort(cpus.begin(), cpus.end());
    cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
    return cpus;
}

// Of the affinity mask that the process was started with.
int cpus_of_mask() {
    if (const size_t places = cpus_of_places().size()) return int(places);
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : omp_get_num_procs();
}

// The first number of a list such as "4,2"; 0 without one.
int number_in(const char* variable) {
    const char* text = std::getenv(variable);
    const long number = text ? std::strtol(text, nullptr, 10) : 0;
    return number > 0 && number < 10'000'000 ? int(number) : 0;
}

}  // namespace

int usable_cpus() {
    const double quota = cgroup_limits().cpus;
    const int cpus = cpus_of_mask();
    return std::max(1, quota < cpus ? int(std::ceil(quota)) : cpus);
}

int set_host_threads(int wanted, int sharing) {
    if (wanted < 0) fail_usage("the number of threads is ", wanted, ", it must be 0 (one per CPU) or more");
    const int by_openmp = number_in("OMP_NUM_THREADS");
    const int machine = int(sysconf(_SC_NPROCESSORS_ONLN)), mask = cpus_of_mask(), all = usable_cpus(),
              usable = std::max(1, all / sharing);
    g_reason = wanted             ? "--threads"
               : by_openmp        ? "OMP_NUM_THREADS"
               : usable < all     ? str("its share, of ", sharing, " processes")
               : usable < mask    ? str("the container's quota of ", usable, usable == 1 ? " CPU" : " CPUs")
               : usable < machine ? str("an affinity mask of ", usable, " of ", machine, " CPUs")
                                  : "";
    if (wanted == 0) wanted = by_openmp ? by_openmp : usable;
    if (omp_get_thread_limit() < wanted) {
        wanted = omp_get_thread_limit();
        g_reason = "OMP_THREAD_LIMIT";
    }
    omp_set_num_threads(wanted);  // for oneDNN too
    return g_threads = wanted;
}

std::string threads_reason() { return g_reason; }

std::string threads_warning() {
    const int cpus = usable_cpus();
    if (g_threads <= cpus) return "";
    return str(g_threads, " threads on ", cpus, cpus == 1 ? " CPU" : " CPUs",
               " wait for each other, which is many times slower than --threads ", cpus);
}

void unbind_first_thread() {
    const std::vector<int> cpus = cpus_of_places();
    if (cpus.empty()) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int cpu : cpus)
        if (cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);  // if it fails, the mask is as libgomp left it
}

void use_host_threads(int count) { omp_set_num_threads(count); }

}  // namespace llmc
