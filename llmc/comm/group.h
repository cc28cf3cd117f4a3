// The processes of a run: started together, checked against each other, ended together.
#pragma once
#include <memory>
#include <string>

#include "llmc/comm/comm.h"
#include "llmc/comm/control.h"
#include "llmc/comm/mpi.h"
#include "llmc/comm/pmi_server.h"
#include "llmc/comm/world.h"

namespace llmc {

class Group {
public:
    // Meets the other processes. program: for messages. build: what must be equal, version and commit. The destructor,
    // after all work is done, waits for the others.
    Group(const World& world, const std::string& build, const std::string& program);
    ~Group();
    Group(const Group&) = delete;
    Group& operator=(const Group&) = delete;

    int rank() const { return world_.rank; }
    int size() const { return world_.size; }
    int local_rank() const { return local_rank_; }
    const std::vector<std::string>& hosts() const { return control_->hosts(); }
    // Processes that share this one's CPUs: on the same host, with the same affinity mask.
    int sharing_cpus() const { return sharing_cpus_; }
    Control& control() { return *control_; }
    // After the device is chosen.
    void open_comm() { comm_ = Comm::open(*control_, mpi_.get()); }
    Comm& comm() { return *comm_; }

private:
    MeetingPoint meeting_point();
    void look_around();

    World world_;
    int local_rank_ = 0, sharing_cpus_ = 1;
    std::unique_ptr<Control> control_;  // each of these is used by those below it
    std::unique_ptr<PmiServer> pmi_;
    std::unique_ptr<Mpi> mpi_;
    std::unique_ptr<Comm> comm_;
};

}  // namespace llmc
