// The GPU backends' collectives: NCCL's, on a stream of their own. Events make that stream wait for the gradients that
// the compute stream has enqueued so far, and the compute stream for the result.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "llmc/comm/comm.h"
#include "llmc/comm/control.h"
#include "llmc/comm/nccl_library.h"
#include "llmc/core/error.h"
#include "llmc/cuda/gpu.h"
#include "llmc/ops/device.h"

namespace llmc {
namespace {

using cuda::check;

// Events that are used again.
class Events {
public:
    ~Events() {
        for (cudaEvent_t event : all_) cudaEventDestroy(event);
    }
    cudaEvent_t take() {
        if (free_.empty()) {
            cudaEvent_t event{};
            check(cudaEventCreate(&event), "cannot make an event");
            all_.push_back(event);
            return event;
        }
        cudaEvent_t event = free_.back();
        free_.pop_back();
        return event;
    }
    void give_back(cudaEvent_t event) { free_.push_back(event); }

private:
    std::vector<cudaEvent_t> all_, free_;
};

class NcclComm : public Comm {
public:
    NcclComm(Control& control, Mpi* mpi) : Comm(control.rank(), control.size()), nccl_(NcclLibrary::load(mpi)) {
        check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cannot make a stream");
        check(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming), "cannot make an event");
        check_gpus(control);
        const std::string own = rank() == 0 ? nccl_->unique_id() : "";
        nccl_->init(control.all_gather(own)[0], size(), rank());
    }
    ~NcclComm() override {
        nccl_.reset();  // before the stream that it was given
        cudaEventDestroy(ready_);
        cudaStreamDestroy(stream_);
    }
    std::string name() const override { return nccl_->version(); }

    int64_t all_reduce(Tensor data) override {
        return start(data, [&] { nccl_->all_reduce(data.as<float>(), size_t(data.numel()), stream_); });
    }
    int64_t reduce_scatter(Tensor data, const std::vector<ElementRange>& parts) override {
        return start(data, [&] {
            if (equal(parts, data)) return nccl_->reduce_scatter(data.as<float>(), size_t(parts[0].count), stream_);
            nccl_->group_start();
            for (size_t r = 0; r < parts.size(); ++r)
                if (parts[r].count > 0)
                    nccl_->reduce(data.as<float>() + parts[r].begin, size_t(parts[r].count), int(r), stream_);
            nccl_->group_end();
        });
    }
    int64_t all_gather(Tensor data, const std::vector<ElementRange>& parts) override {
        return start(data, [&] {
            if (equal(parts, data)) return nccl_->all_gather(data.data, size_t(parts[0].count), data.dtype, stream_);
            nccl_->group_start();
            for (size_t r = 0; r < parts.size(); ++r)
                if (parts[r].count > 0)
                    nccl_->broadcast(data.slice(parts[r].begin, parts[r].count).data, size_t(parts[r].count),
                                     data.dtype, int(r), stream_);
            nccl_->group_end();
        });
    }
    int64_t gather_to(Tensor data, const std::vector<ElementRange>& parts, int root) override {
        return start(data, [&] { nccl_->gather_to(data.data, parts, data.dtype, root, stream_); });
    }
    int64_t broadcast(Tensor data, int root) override {
        return start(data, [&] { nccl_->broadcast(data.data, size_t(data.numel()), data.dtype, root, stream_); });
    }

    void wait(int64_t handle) override {
        const Running running = running_.at(size_t(handle));
        cudaEvent_t reached = events_.take();
        check(cudaEventRecord(reached, cuda::stream()), "cannot order communication");
        check(cudaStreamWaitEvent(cuda::stream(), running.done, 0), "cannot order communication");
        waits_.push_back({running.begun, running.done, reached});
        if (waits_.size() >= kKept && waits_.size() == running_.size()) settle();
    }

    // Numbers travel as pairs of floats' bits: NCCL copies them as they are.
    std::vector<double> gather(std::span<const double> own) override {
        const int64_t floats = int64_t(own.size()) * 2;
        const size_t bytes = size_t(floats) * sizeof(float) * size_t(size());
        if (numbers_.bytes() < bytes) numbers_ = device::Buffer(bytes);
        const Tensor all(numbers_.data(), DType::f32, {floats * size()});
        device::copy_to_device(all.slice(floats * rank(), floats).data, own.data(), own.size_bytes());
        std::vector<ElementRange> parts;
        for (int64_t r = 0; r < size(); ++r) parts.push_back({r * floats, floats});
        const double before = bytes_;
        all_gather(all, parts);
        const Running running = running_.back();  // not one of those that are timed
        running_.pop_back();
        bytes_ = before;
        check(cudaStreamWaitEvent(cuda::stream(), running.done, 0), "cannot order communication");
        std::vector<double> out(own.size() * size_t(size()));
        device::copy_to_host(out.data(), all.data, bytes);
        events_.give_back(running.begun);
        events_.give_back(running.done);
        return out;
    }
    void barrier() override {
        const double nothing[] = {0};
        gather(nothing);
    }
    Times times() override {
        settle();
        return {busy_, waited_, bytes_};
    }

private:
    static constexpr size_t kKept = 4096;  // waits whose times are not asked for yet
    struct Running {
        cudaEvent_t begun, done;
    };
    struct Wait {
        cudaEvent_t begun, done, reached;  // reached: when the compute stream came to the wait
    };

    // NCCL refuses two ranks on one GPU, and does not say which. Newer ones take them if this variable is set.
    static void check_gpus(Control& control) {
        if (std::getenv("NCCL_MULTI_RANK_GPU_ENABLE")) return;
        int device = 0;
        cudaDeviceProp properties{};
        check(cudaGetDevice(&device), "cannot ask for the GPU");
        check(cudaGetDeviceProperties(&properties, device), "cannot ask for the GPU");
        const std::string own(properties.uuid.bytes,
                              sizeof properties.uuid.bytes);  // a part of a GPU (MIG) has its own
        const std::vector<std::string> gpus = control.all_gather(own);
        for (size_t r = 0; r < gpus.size(); ++r)
            for (size_t other = r + 1; other < gpus.size(); ++other)
                if (gpus[r] == gpus[other] && gpus[r] != std::string(own.size(), '\0'))  // emulated: all zeros
                    fail("ranks ", r, " and ", other, " are on one GPU of ", control.hosts()[r],
                         ": start as many processes on each host as it has GPUs, or give each a GPU of its own by "
                         "CUDA_VISIBLE_DEVICES");
    }

    bool equal(const std::vector<ElementRange>& parts, Tensor data) const {
        return parts[0].count * size() == data.numel() &&
               std::all_of(parts.begin(), parts.end(), [&](const auto& p) { return p.count == parts[0].count; });
    }

    template <class Work>
    int64_t start(Tensor data, Work&& work) {
        bytes_ += double(data.bytes());
        const Running running{events_.take(), events_.take()};
        check(cudaEventRecord(ready_, cuda::stream()), "cannot order communication");
        check(cudaStreamWaitEvent(stream_, ready_, 0), "cannot order communication");
        check(cudaEventRecord(running.begun, stream_), "cannot order communication");
        work();
        check(cudaEventRecord(running.done, stream_), "cannot order communication");
        running_.push_back(running);
        return int64_t(running_.size()) - 1;
    }

    // Adds up the times of what was waited for, and frees its events. Waits for the device.
    void settle() {
        device::synchronize();
        for (const Wait& w : waits_) {
            float all = 0, waited = 0;
            check(cudaEventElapsedTime(&all, w.begun, w.done), "cannot time");
            check(cudaEventElapsedTime(&waited, w.reached, w.done), "cannot time");
            busy_ += double(all) / 1e3;
            waited_ += std::max(0.0, double(waited) / 1e3);
            for (cudaEvent_t event : {w.begun, w.done, w.reached}) events_.give_back(event);
        }
        waits_.clear();
        running_.clear();
    }

    std::unique_ptr<NcclLibrary> nccl_;
    cudaStream_t stream_{};
    cudaEvent_t ready_{};  // what the compute stream has when an operation is started
    Events events_;
    std::vector<Running> running_;
    std::vector<Wait> waits_;
    device::Buffer numbers_;
    double busy_ = 0, waited_ = 0, bytes_ = 0;
};

}  // namespace

std::unique_ptr<Comm> Comm::open(Control& control, Mpi* mpi) { return std::make_unique<NcclComm>(control, mpi); }
bool Comm::needs_mpi() { return gpu::kEmulated; }

}  // namespace llmc
