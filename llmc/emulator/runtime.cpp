#include "llmc/emulator/runtime.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "llmc/core/alignment.h"
#include "llmc/core/cgroup.h"
#include "llmc/emulator/limits.h"
#include "llmc/emulator/memory.h"

using llmc::aligned, llmc::kAlignment;
using Work = std::function<void()>;
using Clock = std::chrono::steady_clock;

struct EmulatedGraph {
    std::vector<Work> work;
};
struct EmulatedEvent {
    int64_t recorded = 0, done = 0;    // how often it was enqueued, and reached
    EmulatedStream* stream = nullptr;  // of the last record
    Clock::time_point when;
};
struct EmulatedStream {
    struct Item {
        Work work;
        EmulatedEvent* awaited = nullptr;  // instead of work: until this event is reached
        int64_t record = 0;                // for the so-manyth time
        bool ready() const { return !awaited || awaited->done >= record; }
    };
    std::deque<Item> queue;
};

namespace {

struct State {
    std::deque<EmulatedStream> streams;  // the first is also CUDA's default stream
    bool advancing = false;
    EmulatedGraph* capturing = nullptr;
    bool capture_invalid = false;
    cudaError_t sticky = cudaSuccess;  // a kernel's failure, which every later call returns
    cudaError_t last = cudaSuccess;    // for cudaGetLastError
    std::string failure, launch_problem;
    std::map<void*, size_t> allocations;
    size_t allocated = 0;

    size_t total_memory() const {
        if (llmc::emulator::options().memory) return llmc::emulator::options().memory;
        return std::min<uint64_t>(uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGE_SIZE)),
                                  llmc::cgroup_limits().memory);
    }
};
State& state() {
    static State s;
    return s;
}

// What a call returns: the failure of a kernel before it, or its own status.
cudaError_t result(cudaError_t status) {
    State& s = state();
    if (s.sticky != cudaSuccess) status = s.sticky;
    if (status != cudaSuccess) s.last = status;
    return status;
}

// For calls that a stream which is being captured does not allow: they end the capture.
bool ends_capture() {
    State& s = state();
    if (s.capturing) s.capture_invalid = true;
    return s.capturing;
}

EmulatedStream& stream_of(cudaStream_t stream) {
    State& s = state();
    if (s.streams.empty()) s.streams.emplace_back();
    return stream ? *stream : s.streams.front();
}

// Does the next item of a stream, and before it what it waits for.
void run_next(EmulatedStream& stream) {
    const EmulatedStream::Item item = std::move(stream.queue.front());
    stream.queue.pop_front();
    while (!item.ready()) {
        if (item.awaited->stream->queue.empty()) throw std::runtime_error("streams wait for each other");
        run_next(*item.awaited->stream);
    }
    if (item.work) item.work();
}

// With streams=early: does on all streams but the first what can be done.
void advance_others() {
    State& s = state();
    if (!llmc::emulator::options().streams_early || s.advancing) return;
    s.advancing = true;
    for (size_t i = 1; i < s.streams.size(); ++i)
        while (!s.streams[i].queue.empty() && s.streams[i].queue.front().ready()) run_next(s.streams[i]);
    s.advancing = false;
}

// Runs `work`; the first failure drops all that is enqueued.
template <class Run>
cudaError_t guarded(Run&& work) {
    State& s = state();
    try {
        work();
    } catch (const std::exception& error) {
        s.failure = error.what();
        for (EmulatedStream& stream : s.streams) stream.queue.clear();
        s.sticky = cudaErrorLaunchFailure;
        s.advancing = false;
    }
    return result(cudaSuccess);
}

cudaError_t enqueue(cudaStream_t stream, EmulatedStream::Item item) {
    State& s = state();
    if (s.sticky != cudaSuccess) return s.sticky;
    if (s.capturing && item.work) {
        s.capturing->work.push_back(std::move(item.work));
        return cudaSuccess;
    }
    stream_of(stream).queue.push_back(std::move(item));
    return guarded(advance_others);
}
cudaError_t enqueue(cudaStream_t stream, Work work) {
    return enqueue(stream, EmulatedStream::Item{std::move(work), nullptr, 0});
}

// Does the work of a stream in order while unfinished() is true.
template <class Unfinished>
cudaError_t work_while(EmulatedStream& stream, Unfinished&& unfinished) {
    if (ends_capture()) return result(cudaErrorStreamCaptureUnsupported);
    return guarded([&] {
        while (!stream.queue.empty() && unfinished()) {
            run_next(stream);
            advance_others();
        }
    });
}
cudaError_t finish_all() {
    for (EmulatedStream& stream : state().streams)
        if (const cudaError_t status = work_while(stream, [] { return true; }); status != cudaSuccess) return status;
    return result(cudaSuccess);
}

cudaError_t driver_status() {
    const std::string& driver = llmc::emulator::options().driver;
    return driver == "none" ? cudaErrorNoDevice : driver == "old" ? cudaErrorInsufficientDriver : cudaSuccess;
}
constexpr int kRuntime = 13000;  // the version of CUDA that this emulates

}  // namespace

const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "no error";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        case cudaErrorInvalidConfiguration:
            return state().launch_problem.c_str();
        case cudaErrorNoKernelImageForDevice:
            return "no kernel image is available for execution on the device";
        case cudaErrorUnsupportedPtxVersion:
            return "the provided PTX was compiled with an unsupported toolchain.";
        case cudaErrorStreamCaptureUnsupported:
            return "operation not permitted when stream is capturing";
        case cudaErrorStreamCaptureInvalidated:
            return "operation failed due to a previous error during capture";
        case cudaErrorInsufficientDriver:
            return "CUDA driver version is insufficient for CUDA runtime version";
        case cudaErrorNoDevice:
            return "no CUDA-capable device is detected";
        case cudaErrorLaunchFailure:
            return state().failure.c_str();
        default:
            return "invalid argument";
    }
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = driver_status() == cudaSuccess;
    return driver_status();
}
cudaError_t cudaSetDevice(int) { return driver_status(); }
cudaError_t cudaGetDevice(int* device) { return *device = 0, driver_status(); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
    const llmc::emulator::Options& o = llmc::emulator::options();
    std::snprintf(p->name, sizeof p->name, "%s", o.name.c_str());
    p->uuid = {};
    o.uuid.copy(p->uuid.bytes, sizeof p->uuid.bytes);
    p->major = o.capability / 10;
    p->minor = o.capability % 10;
    p->multiProcessorCount = o.multiprocessors;
    p->totalGlobalMem = state().total_memory();
    p->sharedMemPerBlockOptin = llmc::emulator::limits(o.capability).block_shared;
    return driver_status();
}
cudaError_t cudaDriverGetVersion(int* version) {
    const int reported = std::atoi(llmc::emulator::options().driver.c_str());
    *version = driver_status() == cudaErrorNoDevice ? 0
               : driver_status() != cudaSuccess     ? 11040
               : reported > 0                       ? reported
                                                    : kRuntime;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = kRuntime;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    *stream = &state().streams.emplace_back();
    return driver_status();
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return work_while(stream_of(stream), [] { return true; });
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    if (event->recorded == 0) return cudaSuccess;
    return enqueue(stream, EmulatedStream::Item{{}, event, event->recorded});
}
cudaError_t cudaGetLastError() { return result(std::exchange(state().last, cudaSuccess)); }

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
    State& s = state();
    if (ends_capture()) return result(cudaErrorStreamCaptureUnsupported);
    if (s.sticky != cudaSuccess) return s.sticky;
    const size_t rounded = std::max(aligned(bytes), kAlignment);
    if (s.allocated + rounded > s.total_memory()) return result(cudaErrorMemoryAllocation);
#if defined(__SANITIZE_ADDRESS__)
    const size_t taken = std::max<size_t>(bytes, 1);  // so that the first byte after it is out of bounds
    *pointer = nullptr;
    if (posix_memalign(pointer, kAlignment, taken)) return cudaErrorMemoryAllocation;
#else
    const size_t taken = rounded;
    *pointer = std::aligned_alloc(kAlignment, taken);
#endif
    if (!*pointer) return cudaErrorMemoryAllocation;
    std::memset(*pointer, 0xFF, taken);
    s.allocations[*pointer] = rounded;
    s.allocated += rounded;
    llmc::emulator::remember_allocation(*pointer, bytes);
    return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
    const cudaError_t status = finish_all();
    State& s = state();
    auto found = s.allocations.find(pointer);
    if (found == s.allocations.end()) return pointer ? cudaErrorInvalidValue : status;
    s.allocated -= found->second;
    s.allocations.erase(found);
    llmc::emulator::forget_allocation(pointer);
    std::free(pointer);
    return status;
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
    if (ends_capture()) return result(cudaErrorStreamCaptureUnsupported);
    *pointer = std::aligned_alloc(kAlignment, std::max(aligned(bytes), kAlignment));
    if (*pointer) llmc::emulator::remember_allocation(*pointer, bytes);
    return result(*pointer ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* pointer) {
    const cudaError_t status = finish_all();
    llmc::emulator::forget_allocation(pointer);
    std::free(pointer);
    return status;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    *total = state().total_memory();
    *free = *total - state().allocated;
    return result(driver_status());
}
cudaError_t cudaMemcpyAsync(void* destination, const void* source, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    return enqueue(stream, [=] { std::memcpy(destination, source, bytes); });
}
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
    return enqueue(stream, [=] { std::memset(pointer, value, bytes); });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
    *event = new EmulatedEvent;
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    const cudaError_t status = finish_all();
    delete event;
    return status;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    ++event->recorded;
    event->stream = &stream_of(stream);
    return enqueue(stream, [=] {
        ++event->done;
        event->when = Clock::now();
    });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (event->recorded == 0) return result(cudaSuccess);
    return work_while(*event->stream, [=] { return event->done < event->recorded; });
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop) {
    *milliseconds = std::chrono::duration<float, std::milli>(stop->when - start->when).count();
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
    if (state().capturing) return cudaErrorInvalidValue;
    state().capturing = new EmulatedGraph;
    state().capture_invalid = false;
    return result(cudaSuccess);
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
    *graph = std::exchange(state().capturing, nullptr);
    if (!*graph) return result(cudaErrorInvalidValue);
    if (!state().capture_invalid) return result(cudaSuccess);
    delete std::exchange(*graph, nullptr);
    return result(cudaErrorStreamCaptureInvalidated);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    *executable = new EmulatedGraph(*graph);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    for (const Work& work : executable->work) enqueue(stream, work);
    return result(cudaSuccess);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    delete executable;
    return cudaSuccess;
}

namespace llmc::emulator {

cudaError_t enqueue_grid(cudaStream_t stream, const Launch& launch, std::function<void()> body,
                         std::vector<const void*> pointers) {
    if (options().launch_error) return result(cudaError_t(options().launch_error));
    state().launch_problem = launch_problem(launch);
    if (!state().launch_problem.empty()) return result(cudaErrorInvalidConfiguration);
    return enqueue(stream, [launch, body = std::move(body), pointers = std::move(pointers)] {
        for (const void* p : pointers)
            if (p && !is_accessible(p, 0))
                throw std::runtime_error(std::string("a pointer among the arguments of the kernel launched at ") +
                                         launch.where.file_name() + ":" + std::to_string(launch.where.line()) +
                                         " is not to memory of the GPU");
        run_grid(launch, body);
    });
}

cudaError_t enqueue_host(cudaStream_t stream, std::function<void()> work) { return enqueue(stream, std::move(work)); }

}  // namespace llmc::emulator
