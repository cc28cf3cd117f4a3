// Host threads: how many this process should use.
#pragma once

namespace llmc {

// Sets the number of OpenMP threads to `wanted`, or where that is 0 to OMP_NUM_THREADS or one per core that this
// process may use. Returns it. Throws a usage error for negative numbers.
int set_host_threads(int wanted);

}  // namespace llmc
