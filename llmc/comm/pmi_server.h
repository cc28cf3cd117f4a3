// MPICH's process manager interface, PMI-1, served inside of each process: so MPICH's library starts where no mpirun
// started the processes (torchrun, srun, ssh). Keys and values go over the control connections.
// Wire protocol: lines "cmd=put kvsname=K key=A value=B\n" on the socket of PMI_FD; src/pmi of MPICH.
#pragma once
#include <map>
#include <string>
#include <thread>

#include "llmc/comm/control.h"

namespace llmc {

class PmiServer {
public:
    // Sets PMI_FD, PMI_RANK and PMI_SIZE for this process: before MPI_Init.
    PmiServer(const World& world, Control& control);
    ~PmiServer();  // after MPI_Finalize

private:
    void serve();
    std::string answer(const std::string& line);
    std::string get(const std::string& line);
    void share();

    const World world_;
    Control& control_;
    int fd_ = -1;
    std::map<std::string, std::string> values_, news_;
    std::thread thread_;
};

}  // namespace llmc
