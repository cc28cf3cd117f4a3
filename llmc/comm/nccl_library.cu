#include "llmc/comm/nccl_library.h"

#ifdef __CUDACC__
#include <dlfcn.h>
#include <glob.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>
#else
#include <vector>

#include "llmc/comm/mpi.h"
#endif

#include "llmc/core/error.h"

namespace llmc {

#ifdef __CUDACC__
namespace {

// The C interface of NCCL 2.x.
struct UniqueId {
    char internal[128];
};
using Communicator = struct ncclComm*;
constexpr int kSum = 0, kFloat = 7, kBfloat16 = 9;

class Nccl : public NcclLibrary {
public:
    explicit Nccl(void* library) : library_(library) {
        set(version_, "ncclGetVersion"), set(error_string_, "ncclGetErrorString");
        set(unique_id_, "ncclGetUniqueId"), set(init_, "ncclCommInitRank"), set(abort_, "ncclCommAbort");
        set(all_reduce_, "ncclAllReduce"), set(reduce_, "ncclReduce"), set(reduce_scatter_, "ncclReduceScatter");
        set(all_gather_, "ncclAllGather"), set(broadcast_, "ncclBroadcast");
        set(send_, "ncclSend"), set(receive_, "ncclRecv");
        set(group_start_, "ncclGroupStart"), set(group_end_, "ncclGroupEnd");
    }
    ~Nccl() override {
        if (comm_) abort_(comm_);  // not destroy, which would wait for the others
    }

    std::string version() override {
        int v = 0;
        check(version_(&v), "ncclGetVersion");
        return str("NCCL ", v / 10000, ".", v / 100 % 100, ".", v % 100);
    }
    std::string unique_id() override {
        UniqueId id;
        check(unique_id_(&id), "ncclGetUniqueId");
        return {id.internal, sizeof id.internal};
    }
    void init(const std::string& text, int size, int rank) override {
        UniqueId id{};
        if (text.size() != sizeof id.internal) fail("rank 0 sent no id of NCCL");
        text.copy(id.internal, sizeof id.internal);
        size_ = size, rank_ = rank;
        check(init_(&comm_, size, id, rank), "ncclCommInitRank");
    }
    void all_reduce(float* data, size_t count, cudaStream_t stream) override {
        check(all_reduce_(data, data, count, kFloat, kSum, comm_, stream), "ncclAllReduce");
    }
    void reduce(float* data, size_t count, int root, cudaStream_t stream) override {
        check(reduce_(data, data, count, kFloat, kSum, root, comm_, stream), "ncclReduce");
    }
    void reduce_scatter(float* data, size_t count_each, cudaStream_t stream) override {
        check(reduce_scatter_(data, data + size_t(rank_) * count_each, count_each, kFloat, kSum, comm_, stream),
              "ncclReduceScatter");
    }
    void all_gather(void* data, size_t count_each, DType type, cudaStream_t stream) override {
        const char* own = static_cast<const char*>(data) + size_t(rank_) * count_each * size_of(type);
        check(all_gather_(own, data, count_each, type == DType::f32 ? kFloat : kBfloat16, comm_, stream),
              "ncclAllGather");
    }
    void gather_to(void* data, const std::vector<ElementRange>& parts, DType type, int root,
                   cudaStream_t stream) override {
        const int nccl_type = type == DType::f32 ? kFloat : kBfloat16;
        group_start();
        for (int r = 0; r < size_; ++r) {
            const ElementRange part = parts[size_t(r)];
            char* const place = static_cast<char*>(data) + size_t(part.begin) * size_of(type);
            if (r == root || part.count == 0) continue;
            if (rank_ == root)
                check(receive_(place, size_t(part.count), nccl_type, r, comm_, stream), "ncclRecv");
            else if (rank_ == r)
                check(send_(place, size_t(part.count), nccl_type, root, comm_, stream), "ncclSend");
        }
        group_end();
    }
    void broadcast(void* data, size_t count, DType type, int root, cudaStream_t stream) override {
        check(broadcast_(data, data, count, type == DType::f32 ? kFloat : kBfloat16, root, comm_, stream),
              "ncclBroadcast");
    }
    void group_start() override { check(group_start_(), "ncclGroupStart"); }
    void group_end() override { check(group_end_(), "ncclGroupEnd"); }

private:
    template <class F>
    void set(F& function, const char* name) {
        function = reinterpret_cast<F>(dlsym(library_, name));
        if (!function) fail("the NCCL library has no ", name, ": is LLMC_NCCL_LIBRARY the right file?");
    }
    void check(int status, const char* function) {
        constexpr int kInProgress = 7;
        if (status != 0 && status != kInProgress)
            fail(function, ": ", error_string_(status), " (set NCCL_DEBUG=WARN to see more)");
    }

    void* library_;
    Communicator comm_ = nullptr;
    int size_ = 1, rank_ = 0;
    int (*version_)(int*);
    const char* (*error_string_)(int);
    int (*unique_id_)(UniqueId*);
    int (*init_)(Communicator*, int, UniqueId, int);
    int (*abort_)(Communicator);
    int (*all_reduce_)(const void*, void*, size_t, int, int, Communicator, cudaStream_t);
    int (*reduce_)(const void*, void*, size_t, int, int, int, Communicator, cudaStream_t);
    int (*reduce_scatter_)(const void*, void*, size_t, int, int, Communicator, cudaStream_t);
    int (*all_gather_)(const void*, void*, size_t, int, Communicator, cudaStream_t);
    int (*broadcast_)(const void*, void*, size_t, int, int, Communicator, cudaStream_t);
    int (*send_)(const void*, size_t, int, int, Communicator, cudaStream_t);
    int (*receive_)(void*, size_t, int, int, Communicator, cudaStream_t);
    int (*group_start_)();
    int (*group_end_)();
};

// The system's library, then that of PyPI's nvidia-nccl-cu13 in the .venv beside this program.
std::vector<std::string> candidates() {
    if (const char* own = std::getenv("LLMC_NCCL_LIBRARY"); own && *own) return {own};
    std::vector<std::string> names = {"libnccl.so.2"};
    char path[4096] = {};
    if (readlink("/proc/self/exe", path, sizeof path - 1) < 0) return names;
    const std::string program = path, folder = program.substr(0, program.rfind('/'));
    glob_t found{};
    if (glob((folder + "/.venv/lib/python3*/site-packages/nvidia/nccl/lib/libnccl.so.2").c_str(), 0, nullptr, &found) ==
        0)
        names.insert(names.end(), found.gl_pathv, found.gl_pathv + found.gl_pathc);
    globfree(&found);
    return names;
}

}  // namespace

std::unique_ptr<NcclLibrary> NcclLibrary::load(Mpi*) {
    std::string problem;
    for (const std::string& name : candidates()) {
        if (void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return std::make_unique<Nccl>(library);
        if (problem.empty()) problem = dlerror();
    }
    fail("several GPUs need NCCL: ", problem,
         ": install it (scripts/setup.sh nccl, or your system's libnccl2), or name its file in LLMC_NCCL_LIBRARY");
}
#else
namespace {

// On the emulator's streams, by MPI: device memory is the host's.
class EmulatedNccl : public NcclLibrary {
public:
    explicit EmulatedNccl(Mpi& mpi) : mpi_(mpi) {}
    std::string version() override { return "emulated NCCL on " + mpi_.version(); }
    std::string unique_id() override { return "emulated"; }
    void init(const std::string& id, int size, int rank) override {
        if (id != "emulated" || size != mpi_.size() || rank != mpi_.rank()) fail("the ranks of MPI are others");
    }
    void all_reduce(float* data, size_t count, cudaStream_t stream) override {
        enqueue(stream, [=](MpiLibrary& m) { m.all_reduce(data, int(count)); });
    }
    void reduce(float* data, size_t count, int root, cudaStream_t stream) override {
        enqueue(stream, [=, self = mpi_.rank()](MpiLibrary& m) {
            std::vector<float> sum(data, data + count);
            m.all_reduce(sum.data(), int(count));
            if (self == root) std::copy(sum.begin(), sum.end(), data);
        });
    }
    void reduce_scatter(float* data, size_t count_each, cudaStream_t stream) override {
        enqueue(stream, [=, size = size_t(mpi_.size()), rank = size_t(mpi_.rank())](MpiLibrary& m) {
            std::vector<float> own(count_each);
            m.reduce_scatter(data, own.data(), std::vector<int>(size, int(count_each)));
            std::copy(own.begin(), own.end(), data + rank * count_each);
        });
    }
    void all_gather(void* data, size_t count_each, DType type, cudaStream_t stream) override {
        enqueue(stream, [=, size = size_t(mpi_.size())](MpiLibrary& m) {
            m.all_gather(data, std::vector<int>(size, int(count_each)), size_of(type));
        });
    }
    void gather_to(void* data, const std::vector<ElementRange>& parts, DType type, int root,
                   cudaStream_t stream) override {
        std::vector<int> counts;
        for (const ElementRange& part : parts) counts.push_back(int(part.count));
        enqueue(stream, [=](MpiLibrary& m) { m.gather_to(data, counts, size_of(type), root); });
    }
    void broadcast(void* data, size_t count, DType type, int root, cudaStream_t stream) override {
        enqueue(stream, [=](MpiLibrary& m) { m.broadcast(data, int(count), size_of(type), root); });
    }
    void group_start() override {}
    void group_end() override {}

private:
    template <class Work>
    void enqueue(cudaStream_t stream, Work work) {
        cuda::check(emulator::enqueue_host(stream, [=, this] { mpi_.run(work); }), "cannot enqueue communication");
    }
    Mpi& mpi_;
};

}  // namespace

std::unique_ptr<NcclLibrary> NcclLibrary::load(Mpi* mpi) { return std::make_unique<EmulatedNccl>(*mpi); }
#endif

}  // namespace llmc
