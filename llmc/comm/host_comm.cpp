// The CPU backend's collectives: MPI's, on the tensors themselves.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstring>

#include "llmc/comm/comm.h"
#include "llmc/comm/mpi.h"
#include "llmc/core/error.h"

#ifdef __SANITIZE_THREAD__
extern "C" void __tsan_write_range(void*, unsigned long);
#endif

namespace llmc {
namespace {

// MPI's library is not instrumented: tells ThreadSanitizer that it writes the tensor.
void written_by_mpi([[maybe_unused]] Tensor data) {
#ifdef __SANITIZE_THREAD__
    __tsan_write_range(data.data, data.bytes());
#endif
}

class HostComm : public Comm {
public:
    explicit HostComm(Mpi& mpi) : Comm(mpi.rank(), mpi.size()), mpi_(mpi) {}
    std::string name() const override { return mpi_.version(); }

    int64_t all_reduce(Tensor data) override {
        return post(data, [=](MpiLibrary& m) { m.all_reduce(data.as<float>(), int(data.numel())); });
    }
    int64_t reduce_scatter(Tensor data, const std::vector<ElementRange>& parts) override {
        return post(data, [=, this](MpiLibrary& m) {
            const ElementRange own = parts[size_t(rank())];
            own_part_.resize(std::max(own_part_.size(), size_t(own.count)));  // MPI forbids that the two overlap
            m.reduce_scatter(data.as<float>(), own_part_.data(), counts_of(parts));
            std::memcpy(data.as<float>() + own.begin, own_part_.data(), size_t(own.count) * sizeof(float));
        });
    }
    int64_t all_gather(Tensor data, const std::vector<ElementRange>& parts) override {
        return post(data, [=](MpiLibrary& m) { m.all_gather(data.data, counts_of(parts), size_of(data.dtype)); });
    }
    int64_t gather_to(Tensor data, const std::vector<ElementRange>& parts, int root) override {
        return post(data, [=](MpiLibrary& m) { m.gather_to(data.data, counts_of(parts), size_of(data.dtype), root); });
    }
    int64_t broadcast(Tensor data, int root) override {
        return post(data, [=](MpiLibrary& m) { m.broadcast(data.data, int(data.numel()), size_of(data.dtype), root); });
    }
    void wait(int64_t handle) override {
        const auto begin = std::chrono::steady_clock::now();
        mpi_.wait(handle);
        waited_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    std::vector<double> gather(std::span<const double> own) override {
        std::vector<double> all(own.size() * size_t(size()));
        std::copy(own.begin(), own.end(), all.begin() + long(own.size()) * rank());
        const std::vector<int> counts(size_t(size()), int(own.size() * sizeof(double)));
        mpi_.run([&](MpiLibrary& m) { m.all_gather(all.data(), counts, 1); });
        return all;
    }
    void barrier() override {
        mpi_.run([](MpiLibrary& m) { m.barrier(); });
    }
    Times times() override { return {busy_, waited_, bytes_}; }

private:
    static std::vector<int> counts_of(const std::vector<ElementRange>& parts) {
        std::vector<int> counts;
        for (const ElementRange& part : parts) counts.push_back(int(part.count));
        return counts;
    }
    template <class Work>
    int64_t post(Tensor data, Work work) {
        if (data.numel() > INT_MAX) fail("a tensor of ", data.numel(), " elements is too large for MPI");
        bytes_ += double(data.bytes());
        return mpi_.post([=, this](MpiLibrary& m) {
            const auto begin = std::chrono::steady_clock::now();
            written_by_mpi(data);
            work(m);
            busy_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        });
    }

    Mpi& mpi_;
    std::vector<float> own_part_;   // of the thread
    std::atomic<double> busy_ = 0;  // written by the thread
    double waited_ = 0, bytes_ = 0;
};

}  // namespace

std::unique_ptr<Comm> Comm::open(Control&, Mpi* mpi) { return std::make_unique<HostComm>(*mpi); }
bool Comm::needs_mpi() { return true; }

}  // namespace llmc
