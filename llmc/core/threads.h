// Host threads: how many this process should use.
#pragma once

namespace llmc {

// Sets the number of OpenMP threads to `wanted`. 0: OMP_NUM_THREADS if it is set, otherwise one per core that this
// process may use. Returns the number of threads. Usage error for negative numbers.
int set_host_threads(int wanted);

}  // namespace llmc
