// The CPU as a device: host memory, OpenMP threads.
#include "llmc/ops/device.h"
#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include "llmc/core/cgroup.h"
#include "llmc/core/error.h"
#include "llmc/core/threads.h"
#include "llmc/cpu/dispatch.h"
#include "llmc/cpu/parallel.h"
#include "llmc/ops/ops.h"

namespace llmc {
namespace {

int g_threads = 0;

std::string processor() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
    }
    return "unknown processor";
}

}  // namespace

namespace device {

// libgomp's threads spin for milliseconds at each barrier. If the machine has other work, that keeps the thread they
// wait for from running: fewer rounds (doc/performance.md has what was measured). libgomp reads the count before main, so
// the program has to start again to lower it. The same count: python/llmc/cpus.py.
void prepare_process(char** argv) {
    if (std::getenv("OMP_WAIT_POLICY") || std::getenv("GOMP_SPINCOUNT")) return;
    char path[4096] = {};  // not /proc/self/exe itself: top and pkill show the name of the file that was started
    if (readlink("/proc/self/exe", path, sizeof path - 1) < 0) return;
    setenv("GOMP_SPINCOUNT", "10000", 1);
    unbind_first_thread();
    execv(path, argv);  // returns only if it fails: then continue without
}

void initialize(int threads, const Place& place) { g_threads = set_host_threads(threads, place.sharing_cpus); }

int threads() {
    if (g_threads == 0) initialize(0);
    return g_threads;
}

void choose_matmul_kernel(MatmulKernel) {}

std::string name() {
    const std::string reason = threads_reason();
    return str("cpu (", processor(), ", ", threads(), threads() == 1 ? " thread" : " threads",
               reason.empty() ? "" : " by " + reason, ", ", cpu::instruction_set(), ")");
}
std::string backend() { return "cpu"; }

size_t memory_total() {
    size_t bytes = size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGE_SIZE));
    return std::min<uint64_t>(bytes, cgroup_limits().memory);
}

size_t memory_available() { return memory_total(); }

size_t scratch_bytes(const StepSizes&) { return 0; }
void reserve_scratch(size_t) {}
size_t scratch_reserved() { return 0; }
size_t logits_budget() { return size_t{128} << 20; }
int vocabulary_tile() { return 32; }  // whole vectors in both element types

double datasheet_flops(DType) { return 0; }

double measure_matmul_flops(DType dtype) {
    constexpr int64_t n = 1024;
    Buffer a(n * n * size_of(dtype)), b(n * n * size_of(dtype)), c(n * n * size_of(dtype));
    MatmulForward args{
        .out = {c.data(), dtype, {n, n}}, .inp = {a.data(), dtype, {n, n}}, .weight = {b.data(), dtype, {n, n}}};
    matmul_forward(args);  // builds the primitive, touches the memory
    Stopwatch watch;
    double best = 0, spent = 0;
    for (int i = 0; i < 5 || spent < 0.06; ++i) {
        watch.start();
        matmul_forward(args);
        watch.stop();
        spent += watch.seconds();
        best = std::max(best, 2.0 * n * n * n / watch.seconds());
    }
    return best;
}

void* allocate(size_t bytes) {
    constexpr size_t kHuge = size_t{2} << 20;
    size_t alignment = bytes >= 2 * kHuge ? kHuge : 64;
    size_t rounded = std::max<size_t>((bytes + alignment - 1) / alignment * alignment, alignment);
    // Linux overcommits memory: check first, because the kernel would kill the process later.
    void* pointer = rounded <= memory_total() ? std::aligned_alloc(alignment, rounded) : nullptr;
    if (!pointer)
        fail("cannot allocate ", bytes, " bytes (", double(bytes) / 0x1p30, " GiB): this machine has ",
             double(memory_total()) / 0x1p30, " GiB");
    if (alignment == kHuge) madvise(pointer, rounded, MADV_HUGEPAGE);  // a hint: fewer TLB misses
    fill_zero(pointer, bytes);
    return pointer;
}

void deallocate(void* pointer) { std::free(pointer); }
void* allocate_host(size_t bytes) { return allocate(bytes); }
void deallocate_host(void* pointer) { std::free(pointer); }

void copy_to_device(void* device, const void* host, size_t bytes) { std::memcpy(device, host, bytes); }
void copy_to_host(void* host, const void* device, size_t bytes) { std::memcpy(host, device, bytes); }
void synchronize() {}

struct Stopwatch::State {
    std::chrono::steady_clock::time_point start, stop;
};
Stopwatch::Stopwatch() : state_(std::make_unique<State>()) {}
Stopwatch::~Stopwatch() = default;
void Stopwatch::start() { state_->start = std::chrono::steady_clock::now(); }
void Stopwatch::stop() { state_->stop = std::chrono::steady_clock::now(); }
double Stopwatch::seconds() { return std::chrono::duration<double>(state_->stop - state_->start).count(); }

// Nothing is recorded: calls are cheap on the CPU.
struct Recording::State {};
Recording::Recording() = default;
Recording::~Recording() = default;
void Recording::run(uint64_t, const std::function<void()>& body) { body(); }

void fill_zero(void* device, size_t bytes) {
    cpu::parallel_for(int64_t(bytes), 1 << 18, [&](int64_t begin, int64_t end) {
        std::memset(static_cast<char*>(device) + begin, 0, end - begin);
    });
}

}  // namespace device

}  // namespace llmc
