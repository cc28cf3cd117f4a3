#include "llmc/comm/world.h"

#include <cstdlib>
#include <cstring>

#include "llmc/core/error.h"

namespace llmc {
namespace {

const char* variable(const char* name) {
    const char* value = std::getenv(name);
    return value && *value ? value : nullptr;
}

// A whole number in [low, high] of a variable of the environment.
int number_of(const char* name, int low, int high) {
    const char* text = variable(name);
    if (!text) fail_usage("the environment has no ", name, ", which the launcher of several processes sets");
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    if (*end || value < low || value > high)
        fail_usage("the variable ", name, " is '", text, "': it must be a whole number from ", low, " to ", high);
    return int(value);
}

constexpr int kMostRanks = 1 << 20;

std::string token_of(const char* job) {
    if (const char* own = variable("LLMC_JOB_TOKEN")) return own;
    const char* number = job ? variable(job) : nullptr;
    return number ? number : "";
}

void set_master(World& w, const std::string& master) {
    const size_t colon = master.rfind(':');
    const std::string port = colon == std::string::npos ? "" : master.substr(colon + 1);
    w.master_host = master.substr(0, colon);
    if (w.master_host.starts_with('[') && w.master_host.ends_with(']'))  // IPv6
        w.master_host = w.master_host.substr(1, w.master_host.size() - 2);
    const bool digits = !port.empty() && port.size() < 6 && port.find_first_not_of("0123456789") == std::string::npos;
    w.master_port = digits ? std::atoi(port.c_str()) : 0;
    if (w.master_host.empty() || w.master_port < 1 || w.master_port > 65535)
        fail_usage("--master ", master, ": give the host and a free port of rank 0, such as 10.0.0.1:29400");
}

World of_options(const WorldOptions& options) {
    World w{.launcher = Launcher::options};
    if (options.world_size < 1) fail_usage("--rank ", options.rank, " needs --world-size: the number of processes");
    w.size = options.world_size;
    if (w.size == 1) return World{};
    if (options.rank < 0) fail_usage("--world-size ", w.size, " needs --rank: 0 to ", w.size - 1, ", one each");
    if (options.rank >= w.size)
        fail_usage("--rank ", options.rank, " is not below --world-size ", w.size, ": ranks count from 0");
    w.rank = options.rank;
    if (options.master.empty())
        fail_usage("--world-size ", w.size, " needs --master HOST:PORT: where rank 0 waits for the others");
    w.token = token_of(nullptr);
    return w;
}

World launched(Launcher launcher, const char* rank, const char* size, const char* local_rank, const char* local_size) {
    World w{.launcher = launcher};
    w.size = number_of(size, 1, kMostRanks);
    w.rank = number_of(rank, 0, w.size - 1);
    if (variable(local_rank)) w.local_rank = number_of(local_rank, 0, kMostRanks);
    if (local_size && variable(local_size)) w.one_host = number_of(local_size, 1, kMostRanks) == w.size;
    return w;
}

// torchrun's own store listens at MASTER_PORT.
World of_torchrun() {
    World w = launched(Launcher::torchrun, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE");
    const char* host = variable("MASTER_ADDR");
    if (!host) fail_usage("RANK and WORLD_SIZE are set, but not MASTER_ADDR: start the processes with torchrun");
    w.master_host = host;
    const int port = number_of("MASTER_PORT", 1, 65535);
    w.master_port = port < 65535 ? port + 1 : port - 1;
    w.token = token_of("TORCHELASTIC_RUN_ID");
    return w;
}

// A batch script has SLURM_PROCID too, but only srun sets the variables of a step.
World of_slurm() {
    World w = launched(Launcher::slurm, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", nullptr);
    const char* nodes = variable("SLURM_STEP_NODELIST");
    if (!nodes) fail_usage("SLURM_STEP_NUM_TASKS is set, but not SLURM_STEP_NODELIST: start the processes with srun");
    w.master_host = first_host(nodes);
    const char* number_of_nodes = variable("SLURM_STEP_NUM_NODES");
    w.one_host = number_of_nodes && std::strcmp(number_of_nodes, "1") == 0;
    const char *job = variable("SLURM_JOB_ID"), *step = variable("SLURM_STEP_ID");
    const long number = std::atol(job ? job : "0") * 7 + std::atol(step ? step : "0");
    w.master_port = 15000 + int(number % 15000);  // below the ports that Linux gives to clients
    w.token = token_of("SLURM_JOB_ID");
    return w;
}

}  // namespace

std::string first_host(const std::string& nodelist) {
    const size_t bracket = nodelist.find('['), comma = nodelist.find(',');
    if (bracket == std::string::npos || comma < bracket) return nodelist.substr(0, comma);
    const size_t end = nodelist.find_first_of(",-]", bracket);
    return nodelist.substr(0, bracket) + nodelist.substr(bracket + 1, end - bracket - 1);
}

World find_world(const WorldOptions& options) {
    World w;
    if (options.rank >= 0 || options.world_size > 1)
        w = of_options(options);
    else if (variable("OMPI_COMM_WORLD_SIZE"))
        w = launched(Launcher::open_mpi, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
                     "OMPI_COMM_WORLD_LOCAL_SIZE");
    else if (variable("PMI_RANK") && (variable("PMI_FD") || variable("PMI_PORT")))
        w = launched(Launcher::mpich, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS");
    else if (variable("WORLD_SIZE") && variable("RANK"))
        w = of_torchrun();
    else if (variable("SLURM_STEP_NUM_TASKS"))
        w = of_slurm();
    if (w.size == 1) w = World{};
    if (w.size > 1 && !options.master.empty()) set_master(w, options.master);
    if (w.master_host == "localhost" || w.master_host == "::1" || w.master_host.starts_with("127.")) w.one_host = true;
    w.timeout = options.timeout;
    return w;
}

}  // namespace llmc
