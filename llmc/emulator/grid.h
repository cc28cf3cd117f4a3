// The threads, warps, blocks and clusters of a launch, and how they run on the CPU: each worker runs a cluster of
// blocks at a time, with one fiber per CUDA thread, in rounds until all have returned.
//
// It shows wrong results, reads of shared memory that nothing wrote (it starts as NaN), threads at different barriers,
// deadlocks, accesses out of bounds (AddressSanitizer), data races (ThreadSanitizer), and, in shuffled schedules, code
// that relies on an order which no barrier guarantees.
// It cannot show speed, bank conflicts, register pressure, the memory model between blocks of a grid (but for acquire
// and release, which ThreadSanitizer checks), or how tensor cores round their sums.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>
#include <vector>
#include "llmc/emulator/async_state.h"
#include "llmc/emulator/fiber.h"
#include "llmc/emulator/language.h"

namespace llmc::emulator {

using Location = std::source_location;

// A barrier of threads. It uses two order tokens in turn, because a fast thread may be one generation ahead.
struct Barrier {
    int arrived = 0;
    unsigned generation = 0;
    const char* what = nullptr;  // the operation of the threads that wait
    Location where;
    char order[2];
};

constexpr unsigned char kPoison = 0xFF;  // of shared memory that nothing wrote: NaN in bf16 and in fp32

struct Block;
struct Warp;

struct Thread {
    Fiber fiber;
    dim3 index;
    int linear = 0, lane = 0;
    Warp* warp = nullptr;
    Block* block = nullptr;
    bool done = false;
    const char* waits_for = "start";
    Location where;
    void* deposit = nullptr;  // this thread's data in a collective operation
    PendingCopies copies;
    PendingProducts products;
};

struct Warp {
    Barrier barrier;
    uint32_t alive = 0;
    uint32_t mask = 0;  // of the current operation
    uint64_t exchanged[2][32];
    int parity = 0;
    Thread* lanes = nullptr;  // 32 of them
};

struct Block {
    dim3 index;
    int rank = 0;   // in its cluster
    int alive = 0;  // threads that have not returned
    Barrier barrier, named[16];
    std::vector<Warp> warps;
    std::vector<Thread> threads;
    unsigned char* shared = nullptr;
    size_t shared_bytes = 0;
    bool unfenced_barriers = false;         // an mbarrier was initialised, and no fence made it visible to others yet
    std::vector<unsigned char> async_view;  // shared memory as bulk copies and wgmma see it; empty: nobody looked yet
    std::vector<int> registers;             // of a thread of each warp, as setmaxnreg sets them
};
// Most registers that a thread of a block of so many warps can have: for setmaxnreg, which divides their sum anew.
constexpr int registers_at_start(size_t warps) { return std::min(248, int(65536 / (32 * warps) / 8 * 8)); }

struct Cluster {
    std::vector<Block*> blocks;
    Barrier barrier;
    int alive = 0;
    BulkCopies bulk_copies;
};

// How grids are run. Must not be changed while one runs.
struct Options {
    int workers = 0;       // host threads; 0: one per core
    bool shuffle = false;  // threads take turns in random order and run ahead of each other by random amounts
    uint64_t seed = 1;     // of that
    int multiprocessors = 3;
    int capability = 90;
    std::string name = "emulated GPU";
    std::string uuid;                // of this GPU; "": zeros, the same for all processes
    size_t memory = 0;               // bytes of device memory; 0: the host's
    std::string driver = "ok";       // or "none", "old", or the version of CUDA that it reports: 12040
    int launch_error = 0;            // of every launch, for tests of messages
    bool streams_early = false;      // work on streams other than the first: as early as it may be, not as late
    std::string numerics = "exact";  // or "hardware": tensor cores and approximations as inexact as a GPU's
};
Options& options();  // from the environment variable LLMC_EMULATOR ("shuffle=1 seed=7 ...") at first use

struct Launch {
    dim3 grid, block;
    size_t shared = 0;  // bytes
    int cluster = 1;
    Location where = Location::current();  // of the launch
    const void* kernel = nullptr;
};
// What is wrong with a launch on this GPU, in a sentence; empty if it is right.
std::string launch_problem(const Launch& launch);
// Runs body() once per CUDA thread. Throws std::runtime_error with the place of the first failure.
void run_grid(const Launch& launch, const std::function<void()>& body);

bool in_kernel();  // whether the caller is a CUDA thread
// Of the running CUDA thread:
Thread& self();
Cluster& cluster();
const Launch& launch_shape();
[[noreturn]] void fail(const std::string& what);  // ends the grid; names block, thread and line
[[noreturn]] void fail_at(const Location& where, const std::string& what);
void report(const std::string& what);  // the same, outside of a thread, which goes on until the end of the round
void check_launch_bounds(int threads, const Location& where);
// Fails below the compute capability that has an instruction.
void need(bool available, const char* instruction, const Location& where);

void yield();            // lets the other threads run
void yield_at_random();  // in a shuffled schedule: lets the other threads run ahead for a while
// A turn of a thread that polls memory which another block writes, and such a write: for the deadlock detection, too.
void wait_for_other_blocks(const char* what, const Location& where);
void stored_for_other_blocks();
void made_progress();  // for the deadlock detection: something other than waiting happened
uint32_t random_bits();
}  // namespace llmc::emulator
