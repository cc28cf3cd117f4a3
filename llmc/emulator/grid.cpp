#include "llmc/emulator/grid.h"

#include <sys/mman.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>

#include "llmc/core/format.h"
#include "llmc/emulator/counters.h"
#include "llmc/emulator/limits.h"

namespace llmc::emulator {
namespace {

constexpr size_t kSharedAlignment = 4096;  // the widest shared-memory swizzle needs 1024
constexpr size_t kCanary = 64;             // bytes after a block's shared memory that nothing may change

// A grid that the workers run.
struct Grid {
    Launch launch;
    const std::function<void()>& body;
    std::atomic<unsigned> next_block{0};
    std::mutex mutex;
    std::string failure;
    char start_order, end_order;  // order tokens: memory before, in and after the grid
    int workers = 1;              // that run blocks
    int waiting = 0;              // of these: their threads have all polled in vain since the last of `stores`
    std::atomic<uint64_t> stores{0};
    uint64_t last_store = 0;  // at which `waiting` began

    unsigned blocks() const { return launch.grid.x * launch.grid.y * launch.grid.z; }
    unsigned threads() const { return launch.block.x * launch.block.y * launch.block.z; }
    void report(const std::string& what) {
        std::lock_guard lock(mutex);
        if (failure.empty()) failure = what;
        next_block = blocks();  // no more blocks are started
    }
    // For a worker whose threads have found no new store after the first `seen`; `counted`: the same of its last call.
    // True if no worker will store any more.
    bool all_wait(uint64_t seen, uint64_t& counted) {
        std::lock_guard lock(mutex);
        if (stores != seen) return false;
        if (std::exchange(last_store, seen) != seen) waiting = 0;
        if (std::exchange(counted, seen) != seen) ++waiting;
        return waiting >= workers;
    }
    void leave() {
        std::lock_guard lock(mutex);
        --workers;
    }
};

// Shared memory of a cluster's blocks, each followed by kCanary bytes that nothing may change.
class SharedMemory {
public:
    ~SharedMemory() {
        if (memory_) munmap(memory_, bytes_);
    }
    void resize(size_t bytes) {
        if (bytes <= bytes_) return;
        if (memory_) munmap(memory_, bytes_);
        bytes_ = bytes;
        memory_ = map(nullptr, 0);
    }
    // For ThreadSanitizer it is new memory then: accesses of the last block do not race with those of the next one.
    void renew() {
        if (LLMC_TSAN) map(memory_, MAP_FIXED);
    }
    unsigned char* data() const { return static_cast<unsigned char*>(memory_); }

private:
    void* map(void* at, int flags) const {
        void* memory = mmap(at, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        return memory;
    }
    void* memory_ = nullptr;
    size_t bytes_ = 0;
};

// The state of one host thread: the cluster that it runs, and the order in which the CUDA threads take turns.
struct Worker {
    static constexpr uint64_t kNever = ~uint64_t{0};
    Grid* grid = nullptr;
    Cluster cluster;
    Fiber main;
    std::vector<Thread*> ready;
    size_t turn = 0;
    Thread* running = nullptr;
    uint64_t progress = 0, random = 1;
    bool failed = false, polls = false;  // polls: a thread waits for another block
    uint64_t counted = kNever;           // the number of stores with which the grid counts this worker as waiting

    std::unique_ptr<Stacks> stacks;
    std::vector<std::unique_ptr<Block>> blocks;
    SharedMemory shared;

    void run(Grid& g);
    void set_stage();
    void place_cluster(unsigned first_block);
    void run_cluster();
    void run_round();
    void land_bulk_copies();
    void give_up_threads();
    [[noreturn]] void switch_away_for_good();
};
thread_local Worker* g_worker = nullptr;
thread_local std::unique_ptr<Worker> g_own_worker;

std::string place_of(const Thread& t) {
    const dim3 b = t.block->index;
    char text[512];
    std::snprintf(text, sizeof text, "block (%u,%u,%u) thread %d, %s:%u", b.x, b.y, b.z, t.linear,
                  t.where.file_name() && *t.where.file_name() ? t.where.file_name() : "?", unsigned(t.where.line()));
    return text;
}

void entry() {
    Fiber::entered();
    Worker& w = *g_worker;
    order_acquire(&w.grid->start_order);
    w.grid->body();
    order_release(&w.grid->end_order);
    Thread& t = *w.running;
    if (!t.copies.empty()) fail("thread ends with cp.async in flight");
    if (!t.products.empty()) fail("thread ends with wgmma in flight");
    t.done = true;
    ++w.progress;
    --t.block->alive;
    --w.cluster.alive;
    t.warp->alive &= ~(1u << t.lane);
    yield();
    std::abort();  // not reached: a finished thread gets no more turns
}

// Allocates the blocks, threads and stacks of one cluster of the launch.
void Worker::set_stage() {
    const Launch& launch = grid->launch;
    const unsigned threads = grid->threads(), size = launch.cluster;
    if (!stacks || stacks->count() < size_t(threads) * size) stacks = std::make_unique<Stacks>(size_t(threads) * size);
    const size_t per_block = (launch.shared + kCanary + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
    shared.resize(per_block * size);  // whole pages, aligned to them
    while (blocks.size() < size) blocks.push_back(std::make_unique<Block>());
    cluster.blocks.clear();
    for (unsigned r = 0; r < size; ++r) {
        Block& b = *blocks[r];
        if (b.threads.size() != threads) {
            std::vector<Thread>(threads).swap(b.threads);
            std::vector<Warp>((threads + 31) / 32).swap(b.warps);
        }
        b.rank = int(r);
        b.shared = shared.data() + r * per_block;
        b.shared_bytes = launch.shared;
        for (unsigned i = 0; i < threads; ++i) {
            Thread& t = b.threads[i];
            t.linear = int(i), t.lane = int(i % 32), t.block = &b, t.warp = &b.warps[i / 32];
            t.index = dim3(i % launch.block.x, i / launch.block.x % launch.block.y,
                           i / launch.block.x / launch.block.y);
        }
        for (size_t i = 0; i < b.warps.size(); ++i) b.warps[i].lanes = &b.threads[32 * i];
        cluster.blocks.push_back(&b);
    }
}

void Worker::place_cluster(unsigned first_block) {
    const Launch& launch = grid->launch;
    const unsigned threads = grid->threads();
    random = options().seed * 0x9E3779B97F4A7C15ull + first_block + 1;  // a block's schedule depends only on these
    cluster.alive = 0;
    cluster.barrier = {};
    cluster.bulk_copies.on_their_way.clear();
    ready.clear();
    shared.renew();
    for (Block* b : cluster.blocks) {
        const unsigned i = first_block + unsigned(b->rank);
        b->index = dim3(i % launch.grid.x, i / launch.grid.x % launch.grid.y, i / launch.grid.x / launch.grid.y);
        b->alive = int(threads);
        cluster.alive += int(threads);
        b->barrier = {};
        for (Barrier& barrier : b->named) barrier = {};
        b->unfenced_barriers = false;
        b->async_view.clear();
        b->registers.assign(b->warps.size(), registers_at_start(b->warps.size()));
        asan_unpoison(b->shared, launch.shared + kCanary);
        std::memset(b->shared, kPoison, launch.shared + kCanary);
        asan_poison(b->shared + launch.shared, kCanary);
        for (size_t w = 0; w < b->warps.size(); ++w) {
            const unsigned left = threads - 32 * unsigned(w);
            b->warps[w].barrier = {};
            b->warps[w].alive = left >= 32 ? ~0u : (1u << left) - 1;
        }
        for (Thread& t : b->threads) {
            t.fiber.prepare(stacks->at(size_t(b->rank) * threads + size_t(t.linear)), entry);
            t.done = false;
            t.waits_for = "start";
            t.where = {};
            t.products.committed = t.products.finished = 0;
            t.products.fenced = false;
            ready.push_back(&t);
        }
    }
    order_release(&grid->start_order);
}

// Every thread that has not returned gets one turn; yield() passes it to the next.
void Worker::run_round() {
    if (options().shuffle)
        for (size_t i = ready.size(); i > 1; --i) std::swap(ready[i - 1], ready[random_bits() % i]);
    turn = 0;
    running = ready[0];
    Fiber::switch_to(main, running->fiber);
    std::erase_if(ready, [](const Thread* t) { return t->done; });
}

void Worker::land_bulk_copies() {
    auto& copies = cluster.bulk_copies.on_their_way;
    for (size_t i = 0; i < copies.size(); ++progress) {
        if (copies[i].delay-- > 0) {
            ++i;
            continue;
        }
        std::function<void()> land;
        {
            const Quiet quiet;
            land = std::move(copies[i].land);
            copies.erase(copies.begin() + int64_t(i));
        }
        land();
        const Quiet quiet;
        land = nullptr;
    }
}

void Worker::run_cluster() {
    for (int idle = 0; !ready.empty() && !failed;) {
        const uint64_t before = progress, stores = grid->stores;
        polls = false;
        run_round();
        if (failed) return;
        land_bulk_copies();
        idle = progress == before ? idle + 1 : 0;
        if (idle < 2) continue;
        if (polls && !grid->all_wait(stores, counted)) {
            std::this_thread::yield();
            continue;
        }
        std::string who;
        std::set<std::pair<std::string, uint_least32_t>> places;  // one thread of each
        for (const Thread* t : ready)
            if (places.size() < 8 && places.insert({t->waits_for, t->where.line()}).second)
                who += "\n  waits for " + std::string(t->waits_for) + ": " + place_of(*t);
        grid->report("deadlock: " + plural(int64_t(ready.size()), "thread") + (ready.size() == 1 ? " waits" : " wait") +
                     " for ever" + who);
        failed = true;
    }
    for (const Block* b : cluster.blocks)
        for (size_t i = 0; i < kCanary && !LLMC_ASAN; ++i)
            if (b->shared[b->shared_bytes + i] != kPoison) {
                char text[200];
                std::snprintf(text, sizeof text, "block (%u,%u,%u) wrote beyond its %zu bytes of shared memory",
                              b->index.x, b->index.y, b->index.z, b->shared_bytes);
                return grid->report(text);
            }
}

void Worker::run(Grid& g) {
    Worker* const outer = g_worker;
    g_worker = this;
    grid = &g;
    failed = false;
    counted = kNever;
    main.adopt_current_thread();
    set_stage();
    const unsigned size = g.launch.cluster;
    for (unsigned first; !failed && (first = g.next_block.fetch_add(size)) < g.blocks();) {
        if (!is_wanted(g.launch, first)) continue;
        place_cluster(first);
        begin_counting_block(first);
        run_cluster();
        end_counting_block();
    }
    g.leave();
    // Only here: the threads of a later block must not be ordered after those of an earlier one.
    order_acquire(&g.end_order);
    if (failed) give_up_threads();
    g_worker = outer;
}

// Drops the asynchronous work of a failed grid's threads.
void Worker::give_up_threads() {
    for (Block* b : cluster.blocks)
        for (Thread& t : b->threads) t.copies = {}, t.products = {};
}

void Worker::switch_away_for_good() {
    failed = true;
    Fiber::switch_to(running->fiber, main);
    std::abort();  // not reached: a failed thread is not continued
}

Worker& own_worker() {
    if (!g_own_worker) g_own_worker = std::make_unique<Worker>();
    return *g_own_worker;
}

// Host threads that are kept between launches: starting one takes longer than most launches.
class Pool {
public:
    // Runs the grid on the calling thread and `count` others.
    void run(Grid& grid, int count) {
        {
            std::lock_guard lock(mutex_);
            while (int(threads_.size()) < count) threads_.emplace_back([this] { serve(); });
            grid_ = &grid;
            wanted_ = count;
            busy_ = count;
        }
        wake_.notify_all();
        own_worker().run(grid);
        std::unique_lock lock(mutex_);
        done_.wait(lock, [this] { return busy_ == 0; });
        grid_ = nullptr;
    }
    ~Pool() {
        {
            std::lock_guard lock(mutex_);
            stop_ = true;
        }
        wake_.notify_all();
        for (std::thread& t : threads_) t.join();
    }

private:
    void serve() {
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [this] { return stop_ || wanted_ > 0; });
            if (stop_) return;
            --wanted_;
            Grid* grid = grid_;
            lock.unlock();
            own_worker().run(*grid);
            lock.lock();
            if (--busy_ == 0) done_.notify_all();
        }
    }
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> threads_;
    Grid* grid_ = nullptr;
    int wanted_ = 0, busy_ = 0;
    bool stop_ = false;
};

}  // namespace

std::string launch_problem(const Launch& l) {
    const Limits most = limits(options().capability);
    const uint64_t threads = uint64_t{l.block.x} * l.block.y * l.block.z;
    const std::string gpu = "compute capability " + std::to_string(options().capability / 10) + "." +
                            std::to_string(options().capability % 10);
    char text[256] = "";
    if (threads == 0 || threads > 1024 || l.block.z > 64)
        std::snprintf(text, sizeof text, "a block has 1 to 1024 threads, not %llu",
                      static_cast<unsigned long long>(threads));
    else if (l.grid.x == 0 || l.grid.y == 0 || l.grid.z == 0 || l.grid.x > 0x7fffffffu || l.grid.y > 65535 ||
             l.grid.z > 65535)
        std::snprintf(text, sizeof text, "a grid of %u x %u x %u blocks is outside CUDA's limits", l.grid.x, l.grid.y,
                      l.grid.z);
    else if (l.shared > most.block_shared)
        std::snprintf(text, sizeof text, "%zu bytes of shared memory, %s has %zu", l.shared, gpu.c_str(),
                      most.block_shared);
    else if (l.cluster != 1 && !most.clusters)
        std::snprintf(text, sizeof text, "a cluster of %d blocks: %s has no clusters, they need 9.0", l.cluster,
                      gpu.c_str());
    else if (l.cluster < 1 || l.cluster > 8 || l.grid.x % unsigned(l.cluster))
        std::snprintf(text, sizeof text, "clusters of %d do not divide a grid %u blocks wide", l.cluster, l.grid.x);
    return text;
}

void run_grid(const Launch& launch, const std::function<void()>& body) {
    static Pool pool;
    static std::mutex one_at_a_time;
    Grid grid{.launch = launch, .body = body};
    if (const std::string problem = launch_problem(launch); !problem.empty()) throw std::runtime_error(problem);
    std::lock_guard lock(one_at_a_time);
    const unsigned clusters = grid.blocks() / unsigned(launch.cluster);
    int workers = options().workers ? options().workers : int(std::max(1u, std::thread::hardware_concurrency()));
    workers = int(std::min<unsigned>(unsigned(workers), clusters));
    begin_counting_grid(launch);
    if (kCounts || uint64_t(grid.blocks()) * grid.threads() < 512) workers = 1;
    grid.workers = std::max(workers, 1);
    if (workers <= 1)
        own_worker().run(grid);
    else
        pool.run(grid, workers - 1);
    end_counting();
    if (grid.failure.empty()) return;
    const Location& where = launch.where;
    throw std::runtime_error(grid.failure + " (kernel launched at " + where.file_name() + ":" +
                             std::to_string(where.line()) + ")");
}

bool in_kernel() { return g_worker && g_worker->running; }
Thread& self() { return *g_worker->running; }
Cluster& cluster() { return g_worker->cluster; }
const Launch& launch_shape() { return g_worker->grid->launch; }
const dim3& thread_index() { return g_worker->running->index; }
const dim3& block_index() { return g_worker->running->block->index; }
const dim3& block_shape() { return g_worker->grid->launch.block; }
const dim3& grid_shape() { return g_worker->grid->launch.grid; }
void made_progress() { ++g_worker->progress; }

void wait_for_other_blocks(const char* what, const Location& where) {
    self().where = where;
    self().waits_for = what;
    g_worker->polls = true;
    yield();
}
void stored_for_other_blocks() {
    ++g_worker->grid->stores;
    made_progress();
}

void fail(const std::string& what) {
    Worker& w = *g_worker;
    w.grid->report(what + ": " + place_of(*w.running));
    w.switch_away_for_good();
}

void fail_at(const Location& where, const std::string& what) {
    self().where = where;
    fail(what);
}

void report(const std::string& what) {
    g_worker->grid->report(what);
    g_worker->failed = true;
}

void check_launch_bounds(int threads, const Location& where) {
    const unsigned launched = g_worker->grid->threads();
    if (launched <= unsigned(threads)) return;
    fail_at(where, "the launch has blocks of " + std::to_string(launched) +
                       " threads, the kernel's launch bounds are " + std::to_string(threads));
}

void need(bool available, const char* instruction, const Location& where) {
    if (available) return;
    fail_at(where, std::string(instruction) + " is not an instruction of compute capability " +
                       std::to_string(options().capability / 10) + "." + std::to_string(options().capability % 10));
}

uint32_t random_bits() {
    uint64_t& x = g_worker->random;  // xorshift64
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return uint32_t(x >> 32);
}

void yield() {
    Worker& w = *g_worker;
    Thread* const from = w.running;
    if (++w.turn == w.ready.size()) return Fiber::switch_to(from->fiber, w.main);  // the round is over
    w.running = w.ready[w.turn];
    Fiber::switch_to(from->fiber, w.running->fiber);
}

void yield_at_random() {
    if (!options().shuffle) return;
    for (uint32_t n = random_bits() % 16; n > 8; --n) {
        made_progress();
        yield();
    }
}

}  // namespace llmc::emulator
