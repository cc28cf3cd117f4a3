// The GPU backends' collectives.
#include "llmc/comm/comm.h"
#include "llmc/core/error.h"

namespace llmc {

std::unique_ptr<Comm> Comm::open(Control&, Mpi*) {
    fail_usage("this program trains in one process, on one GPU: start it without mpirun, torchrun or srun");
}
bool Comm::needs_mpi() { return false; }

}  // namespace llmc
