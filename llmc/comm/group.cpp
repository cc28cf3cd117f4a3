#include "llmc/comm/group.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "llmc/core/error.h"

namespace llmc {
namespace {

// The CPUs that this process may use, as text: equal for processes that share them.
std::string affinity_mask() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return "";
    return {reinterpret_cast<const char*>(&set), sizeof set};
}

// Texts of all ranks through MPI, before there are control connections.
std::vector<std::string> gather_by_mpi(Mpi& mpi, const std::string& own) {
    constexpr size_t kLongest = 512;
    std::string all(kLongest * size_t(mpi.size()), '\0');
    own.copy(all.data() + kLongest * size_t(mpi.rank()), kLongest - 1);
    mpi.run([&](MpiLibrary& m) { m.all_gather(all.data(), std::vector<int>(size_t(mpi.size()), int(kLongest)), 1); });
    std::vector<std::string> out;
    for (int r = 0; r < mpi.size(); ++r) out.push_back(all.c_str() + kLongest * size_t(r));
    return out;
}

// MPI and NCCL listen on ports of their own, which ask for no token: by default on all addresses of a host, even if all
// processes are on it. A user's own setting stays.
void open_no_ports_to_others() {
    setenv("UCX_NET_DEVICES", "lo", 0);     // MPICH
    setenv("OMPI_MCA_btl", "^tcp,ofi", 0);  // btl_tcp_if_include=lo would still listen at 0.0.0.0
    setenv("NCCL_SOCKET_IFNAME", "lo", 0);
}

}  // namespace

Group::Group(const World& world, const std::string& build, const std::string& program) : world_(world) {
    if (world_.one_host) open_no_ports_to_others();
    if (world_.by_mpi()) {
        const MpiKind kind = world_.launcher == Launcher::open_mpi ? MpiKind::open_mpi : MpiKind::mpich;
        mpi_ = std::make_unique<Mpi>(kind, world_.timeout, program);
        if (mpi_->size() != world_.size || mpi_->rank() != world_.rank)
            fail("MPI says that this is rank ", mpi_->rank(), " of ", mpi_->size(), ", the launcher's variables ",
                 world_.rank, " of ", world_.size, ": is the library that of the mpirun? (LLMC_MPI_LIBRARY)");
    }
    control_ = std::make_unique<Control>(world_, meeting_point(), build, program);
    if (!mpi_ && Comm::needs_mpi()) {
        pmi_ = std::make_unique<PmiServer>(world_, *control_);
        mpi_ = std::make_unique<Mpi>(MpiKind::mpich, world_.timeout, program);
    }
    look_around();
}

// An operation is done on this rank while others still read this rank's buffers.
Group::~Group() {
    if (comm_) control_->all_gather("");
}

// Where rank 0 waits. If MPI started the processes, it tells the others where that is, and a token.
MeetingPoint Group::meeting_point() {
    MeetingPoint point{{}, world_.master_host, world_.master_port};
    if (mpi_) {
        const std::vector<std::string> hosts = gather_by_mpi(*mpi_, host_name());
        const bool one_host = std::all_of(hosts.begin(), hosts.end(), [&](const auto& h) { return h == hosts[0]; });
        if (point.host.empty()) point.host = one_host ? "127.0.0.1" : outside_address();
        std::string token;
        if (world_.rank == 0) {
            point.listening = Socket::listen(point.host, point.port);
            point.port = point.listening.port();
            token = random_token();
        }
        const std::vector<std::string> told = unpack(
            gather_by_mpi(*mpi_, pack({point.host, std::to_string(point.port), token}))[0]);
        point.host = told[0], point.port = std::atoi(told[1].c_str()), world_.token = told[2];
    } else if (world_.rank == 0) {
        point.listening = Socket::listen(point.host, point.port);
    }
    return point;
}

void Group::look_around() {
    const std::vector<std::string> masks = control_->all_gather(affinity_mask());
    const std::vector<std::string>& all_hosts = hosts();
    const std::string &host = all_hosts[size_t(rank())], &mask = masks[size_t(rank())];
    sharing_cpus_ = 0;
    for (int r = 0; r < size(); ++r) {
        if (all_hosts[size_t(r)] != host) continue;
        if (r < rank()) ++local_rank_;
        if (masks[size_t(r)] == mask) ++sharing_cpus_;
    }
    if (world_.local_rank >= 0) local_rank_ = world_.local_rank;
}

}  // namespace llmc
