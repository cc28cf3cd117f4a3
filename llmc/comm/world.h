// Which process of a run this one is, and where it finds the others: from the options, or from what a launcher sets.
#pragma once
#include <string>

namespace llmc {

struct WorldOptions {
    int rank = -1;        // --rank; -1: not given
    int world_size = 0;   // --world-size; 0: not given
    std::string master;   // --master HOST:PORT, of rank 0
    double timeout = 25;  // seconds that a process waits for another one
};

enum class Launcher {
    none,      // one process
    options,   // --rank, --world-size and --master
    open_mpi,  // OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE
    mpich,     // PMI_RANK, PMI_SIZE, and PMI_FD or PMI_PORT: MPICH's, Intel MPI's and others' process managers
    torchrun,  // RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT
    slurm,     // SLURM_PROCID, SLURM_STEP_NUM_TASKS and SLURM_STEP_NODELIST, of srun
};

struct World {
    Launcher launcher = Launcher::none;
    int rank = 0, size = 1;
    int local_rank = -1;      // among the processes of this host; -1: not known
    bool one_host = false;    // all processes are on this one, as far as the launcher says
    std::string master_host;  // where rank 0 is reached; empty: MPI tells
    int master_port = 0;
    std::string token;  // that all processes of the job know
    double timeout = 25;

    bool by_mpi() const { return launcher == Launcher::open_mpi || launcher == Launcher::mpich; }
};

// The options come first, then MPI's variables, then torchrun's, then SLURM's. Usage error that names the variable or
// option that is missing or wrong. The token: LLMC_JOB_TOKEN, otherwise the launcher's number of the job.
World find_world(const WorldOptions& options);

// The first host of SLURM's list: "gpu[07-09,12],login1" -> "gpu07".
std::string first_host(const std::string& nodelist);

}  // namespace llmc
