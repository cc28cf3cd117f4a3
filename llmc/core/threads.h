// Host threads: how many this process should use.
#pragma once
#include <string>

namespace llmc {

// CPUs that this process may use: those of its affinity mask, limited by the container's quota, at least 1.
int usable_cpus();

// Sets the number of OpenMP threads to `wanted`. 0: OMP_NUM_THREADS if it is set, otherwise usable_cpus(). Never more
// than OMP_THREAD_LIMIT. Returns the number of threads. Usage error for negative numbers. sharing: processes that divide
// these CPUs.
int set_host_threads(int wanted, int sharing = 1);

// Why there are so many threads, after set_host_threads: "OMP_NUM_THREADS", "the container's quota of 2 CPUs", ...;
// empty if there is one for each CPU of the machine.
std::string threads_reason();

// A sentence if there are more threads than CPUs, else empty.
std::string threads_warning();

// Sets the affinity mask back to all CPUs that OpenMP has places on. With OMP_PROC_BIND, libgomp binds the first thread
// to the first place before main, and a program that starts again would have that CPU only.
void unbind_first_thread();

// OpenMP's number belongs to the calling thread: for further threads of this process that call kernels.
void use_host_threads(int count);

}  // namespace llmc
