// An NVIDIA GPU as a device (llmc/ops/device.h): one stream, memory, copies through page-locked buffers, recorded work.
#include "llmc/ops/device.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>

#include "llmc/core/alignment.h"
#include "llmc/core/threads.h"
#include "llmc/cuda/gpu_info.h"
#include "llmc/ops/ops.h"

#ifdef __CUDACC__
#include <cxxabi.h>
#endif

namespace llmc::cuda {
namespace {

constexpr double kGiB = 1 << 30;

bool waits_for_kernels() {
    static const bool waits = [] {
        const char* text = std::getenv("LLMC_CUDA_SYNC");
        return text && *text && std::string(text) != "0";
    }();
    return waits;
}

// "name ", or nothing where it is not known.
std::string kernel_name([[maybe_unused]] const void* kernel) {
#ifdef __CUDACC__
    const char* mangled = nullptr;
    if (cudaFuncGetName(&mangled, kernel) != cudaSuccess || !mangled) return "";
    int status = 1;
    char* readable = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
    const std::string name = readable ? readable : mangled;
    std::free(readable);
    return name.substr(0, name.find('(', 1)) + " ";
#else
    return "";
#endif
}

// Two page-locked buffers: the host fills one while the device reads the other.
class PinnedRing {
public:
    void copy(void* device, const void* host, size_t bytes, cudaStream_t stream) {
        if (!slots_[0]) create();
        for (size_t done = 0; done < bytes; done += kSlot) {
            const size_t n = std::min(kSlot, bytes - done);
            check(cudaEventSynchronize(read_[next_]), "cannot copy to the GPU");
            std::memcpy(slots_[next_], static_cast<const char*>(host) + done, n);
            check(cudaMemcpyAsync(static_cast<char*>(device) + done, slots_[next_], n, cudaMemcpyHostToDevice, stream),
                  "cannot copy to the GPU");
            check(cudaEventRecord(read_[next_], stream), "cannot copy to the GPU");
            next_ ^= 1;
        }
    }

private:
    static constexpr size_t kSlot = size_t{4} << 20;
    void create() {
        for (int i = 0; i < 2; ++i) {
            check(cudaEventCreateWithFlags(&read_[i], cudaEventDisableTiming), "cannot make an event");
            check(cudaMallocHost(reinterpret_cast<void**>(&slots_[i]), kSlot), "cannot allocate page-locked memory");
        }
    }
    char* slots_[2] = {};
    cudaEvent_t read_[2] = {};
    int next_ = 0;
};

struct State {
    int threads = 1, driver = 0, runtime = 0;  // of CUDA's driver and runtime: versions
    cudaDeviceProp properties{};
    cudaStream_t stream{};
    PinnedRing ring;
    char* workspace = nullptr;
    size_t workspace_bytes = 0;
    uint64_t workspace_generation = 0;
    uint32_t* turns = nullptr;
    MatmulKernel matmul_kernel = MatmulKernel::automatic;
    bool recording = false;
};

[[noreturn]] void no_gpu(const char* reason) { throw Error(kExitNoGpu, str("no usable GPU: ", reason)); }

// A word before the first start on a GPU that the program has no code for: the driver compiles in silence.
void announce_compilation(const State& s) {
    const int capability = s.properties.major * 10 + s.properties.minor;
    std::fprintf(
        stderr,
        "note: this program has code for compute capabilities %s, not for %d.%d of this GPU: the driver compiles "
        "the kernels now, which can take minutes, and keeps them in ~/.nv/ComputeCache for the next start; make "
        "CUDA_ARCH=%d avoids it\n",
        built_architectures(), s.properties.major, s.properties.minor, capability);
}

// The device, or an error that says what is missing: driver, version, GPU or compute capability.
State open_device(int threads, const device::Place& place) {
    State s;
    s.threads = set_host_threads(threads, place.sharing_cpus);
    int count = 0;
    check(cudaRuntimeGetVersion(&s.runtime), "cannot ask for the version of CUDA's runtime");
    const cudaError_t driver_status = cudaDriverGetVersion(&s.driver);
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (driver_status != cudaSuccess || s.driver == 0)
        no_gpu("this machine has no NVIDIA driver; run train_gpt2 (the CPU), or train_gpt2emu to try the kernels");
    const auto need_driver = [&](bool needs_ptx) {
        const std::string problem = driver_problem(s.driver, s.runtime, needs_ptx);
        if (!problem.empty()) no_gpu(problem.c_str());
    };
    need_driver(false);
    if (status != cudaSuccess || count == 0)
        no_gpu(str(cudaGetErrorString(status), " (is CUDA_VISIBLE_DEVICES set to hide it?)").c_str());
    const int device = place.local_rank % count;
    check(cudaSetDevice(device), "cannot use the GPU");
    check(cudaGetDeviceProperties(&s.properties, device), "cannot use the GPU");
    if (s.properties.major < 8)
        no_gpu(str(s.properties.name, " has compute capability ", s.properties.major, ".", s.properties.minor,
                   "; the kernels need 8.0 (Ampere) or newer")
                   .c_str());
    if (!has_code_for(built_architectures(), s.properties.major * 10 + s.properties.minor)) {
        need_driver(true);
        announce_compilation(s);
    }
    check(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking), "cannot make a stream");
    return s;
}

std::optional<State> g_state;

State& state() {
    if (!g_state) g_state = open_device(0, {});
    return *g_state;
}

}  // namespace

void check(cudaError_t status, const std::string& what) {
    if (status == cudaSuccess) return;
    const std::string reason = cudaGetErrorString(status);
    const bool named = (what + reason).find("launched at") != std::string::npos;
    fail(what, ": ", reason, g_state ? remedy(status, g_state->driver, g_state->runtime, compute_capability()) : "",
         is_of_kernel(status) && !named ? " (set LLMC_CUDA_SYNC=1 to see which kernel)" : "");
}

void check_launch(cudaError_t status, const void* kernel, const Launch& shape) {
    const bool wait = waits_for_kernels() && !state().recording;
    if (status == cudaSuccess && wait) status = cudaStreamSynchronize(stream());
    if (status == cudaSuccess) return;
    const auto dims = [](dim3 d) { return str(d.x, " x ", d.y, " x ", d.z); };
    check(status, str("kernel ", kernel_name(kernel), "launched at ", shape.where.file_name(), ":", shape.where.line(),
                      " with ", dims(shape.grid), " blocks of ", dims(shape.block), " threads failed"));
}

cudaStream_t stream() { return state().stream; }
int multiprocessors() { return state().properties.multiProcessorCount; }
int compute_capability() { return state().properties.major * 10 + state().properties.minor; }
size_t shared_limit() { return state().properties.sharedMemPerBlockOptin; }
uint64_t workspace_generation() { return state().workspace_generation; }

uint32_t* turns() {
    constexpr int kMostResident = 32;  // blocks of a multiprocessor
    State& s = state();
    const size_t count = size_t(s.properties.multiProcessorCount) * kMostResident;
    if (!s.turns) s.turns = static_cast<uint32_t*>(device::allocate(count * sizeof(uint32_t)));  // of zeros
    return s.turns;
}

bool has_wgmma() {
    return state().matmul_kernel != MatmulKernel::mma &&
           wgmma_problem(built_architectures(), compute_capability()).empty();
}
bool wgmma_is_chosen() { return state().matmul_kernel == MatmulKernel::wgmma; }

Workspace::Workspace(const std::vector<size_t>& bytes) {
    size_t total = 0;
    for (size_t part : bytes) {
        offsets_.push_back(total);
        total += aligned(part);
    }
    reserve_workspace(total);
    base_ = state().workspace;
}

void reserve_workspace(size_t bytes) {
    State& s = state();
    if (bytes <= s.workspace_bytes) return;
    if (s.recording) fail("an op needs more scratch memory when it is recorded than when it ran first");
    if (s.workspace) check(cudaFree(s.workspace), "cannot free memory");
    s.workspace = nullptr;
    s.workspace_bytes = 0;
    s.workspace = static_cast<char*>(device::allocate(bytes));
    s.workspace_bytes = bytes;
    ++s.workspace_generation;
}

}  // namespace llmc::cuda

namespace llmc::device {

using cuda::check;
using cuda::kGiB;
using cuda::state;

void prepare_process(char**) {}
void initialize(int threads, const Place& place) { cuda::g_state = cuda::open_device(threads, place); }

std::string name() {
    const cudaDeviceProp& p = state().properties;
    char memory[32];
    std::snprintf(memory, sizeof memory, "%.1f GiB", double(p.totalGlobalMem) / kGiB);
    return str(backend(), " (", p.name, ", compute capability ", p.major, ".", p.minor, ", ", p.multiProcessorCount,
               " multiprocessors, ", memory, ", CUDA ", cuda::version_string(state().driver), ")");
}
double datasheet_flops(DType dtype) { return cuda::datasheet_flops(state().properties.name, dtype); }
std::string backend() { return gpu::kEmulated ? "emulated" : "cuda"; }
int threads() { return state().threads; }

void choose_matmul_kernel(MatmulKernel kernel) {
    const std::string problem = cuda::wgmma_problem(cuda::built_architectures(), cuda::compute_capability());
    if (kernel == MatmulKernel::wgmma && !problem.empty())
        throw Error(kExitUsage, "no matmul kernel wgmma: " + problem);
    state().matmul_kernel = kernel;
}
size_t memory_total() { return state().properties.totalGlobalMem; }
size_t memory_available() {
    size_t free = 0, total = 0;
    state();
    check(cudaMemGetInfo(&free, &total), "cannot ask for the GPU's memory");
    return free - std::min(free, std::min(size_t{256} << 20, total / 16));  // for CUDA itself: kernels, graphs, gaps
}
void reserve_scratch(size_t bytes) { cuda::reserve_workspace(bytes); }
size_t scratch_reserved() { return state().workspace_bytes; }
size_t logits_budget() { return size_t{gpu::kEmulated ? 128 : 1024} << 20; }
int vocabulary_tile() { return 128; }

double measure_matmul_flops(DType dtype) {
    const int64_t n = gpu::kEmulated ? 256 : dtype == DType::bf16 ? 8192 : 4096;
    const size_t bytes = size_t(n * n) * size_of(dtype);
    Buffer a(bytes), b(bytes), c(bytes);
    // numbers near 3 in bf16 and in fp32: products of zeros use less power and run faster than those of a model
    check(cudaMemsetAsync(a.data(), 0x40, bytes, state().stream), "cannot fill memory");
    check(cudaMemsetAsync(b.data(), 0x40, bytes, state().stream), "cannot fill memory");
    const MatmulForward product{
        .out = {c.data(), dtype, {n, n}}, .inp = {a.data(), dtype, {n, n}}, .weight = {b.data(), dtype, {n, n}}};
    Stopwatch watch;
    double best = 0;
    for (int i = 0; i < (gpu::kEmulated ? 1 : 10); ++i) {
        watch.start();
        matmul_forward(product);
        watch.stop();
        best = std::max(best, 2 * double(n) * double(n) * double(n) / watch.seconds());
    }
    return best;
}

void* allocate(size_t bytes) {
    state();
    void* pointer = nullptr;
    const cudaError_t status = cudaMalloc(&pointer, std::max<size_t>(bytes, 1));
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();  // clears the error, which is reported here
        char text[256];
        std::snprintf(text, sizeof text,
                      "out of memory on the GPU: %.2f GiB wanted, %.2f of %.2f GiB are free; lower --batch-size, or "
                      "use --recompute block",
                      double(bytes) / kGiB, double(memory_available()) / kGiB, double(memory_total()) / kGiB);
        fail(text);
    }
    check(status, "cannot allocate memory on the GPU");
    fill_zero(pointer, bytes);
    return pointer;
}
void deallocate(void* pointer) { cudaFree(pointer); }

void* allocate_host(size_t bytes) {
    state();
    void* pointer = nullptr;
    check(cudaMallocHost(&pointer, std::max<size_t>(bytes, 1)), "cannot allocate page-locked memory");
    std::memset(pointer, 0, bytes);
    return pointer;
}
void deallocate_host(void* pointer) { cudaFreeHost(pointer); }

void copy_to_device(void* device, const void* host, size_t bytes) {
    state().ring.copy(device, host, bytes, state().stream);
}
void copy_to_host(void* host, const void* device, size_t bytes) {
    check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, state().stream), "cannot copy from the GPU");
    synchronize();
}
void fill_zero(void* device, size_t bytes) {
    if (bytes) check(cudaMemsetAsync(device, 0, bytes, state().stream), "cannot clear memory on the GPU");
}
void synchronize() { check(cudaStreamSynchronize(state().stream), "work on the GPU failed"); }

struct Stopwatch::State {
    cudaEvent_t start, stop;
    State() {
        check(cudaEventCreate(&start), "cannot make an event");
        check(cudaEventCreate(&stop), "cannot make an event");
    }
    ~State() {
        cudaEventDestroy(start);
        cudaEventDestroy(stop);
    }
};
Stopwatch::Stopwatch() : state_(std::make_unique<State>()) {}
Stopwatch::~Stopwatch() = default;
void Stopwatch::start() { check(cudaEventRecord(state_->start, cuda::stream()), "cannot time"); }
void Stopwatch::stop() { check(cudaEventRecord(state_->stop, cuda::stream()), "cannot time"); }
double Stopwatch::seconds() {
    float milliseconds = 0;
    check(cudaEventSynchronize(state_->stop), "cannot time");
    check(cudaEventElapsedTime(&milliseconds, state_->start, state_->stop), "cannot time");
    return double(milliseconds) / 1e3;
}

struct Recording::State {
    cudaGraphExec_t graph{};
    uint64_t key = 0, generation = 0;
    bool seen = false;  // has run once with this key, so the workspace is large enough
    void forget() {
        if (graph) cudaGraphExecDestroy(graph);
        graph = {};
        seen = false;
    }
    ~State() { forget(); }
};
Recording::Recording() : state_(std::make_unique<State>()) {}
Recording::~Recording() = default;

void Recording::run(uint64_t key, const std::function<void()>& body) {
    State& s = *state_;
    if (cuda::waits_for_kernels()) return body();  // a recorded kernel cannot be waited for
    if (s.key != key || s.generation != cuda::workspace_generation()) s.forget();
    if (!s.seen) {
        body();
        s.key = key;
        s.generation = cuda::workspace_generation();
        s.seen = true;
        return;
    }
    if (!s.graph) {
        cudaGraph_t graph{};
        check(cudaStreamBeginCapture(cuda::stream(), cudaStreamCaptureModeThreadLocal), "cannot record");
        state().recording = true;
        try {
            body();
        } catch (...) {
            state().recording = false;
            cudaStreamEndCapture(cuda::stream(), &graph);
            throw;
        }
        state().recording = false;
        check(cudaStreamEndCapture(cuda::stream(), &graph), "cannot record");
        check(cudaGraphInstantiate(&s.graph, graph, 0), "cannot record");
        check(cudaGraphDestroy(graph), "cannot record");
    }
    check(cudaGraphLaunch(s.graph, cuda::stream()), "cannot replay recorded work");
}

}  // namespace llmc::device
