#include "llmc/emulator/counters.h"

#ifdef LLMC_EMULATOR_COUNT
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "llmc/emulator/grid.h"
#include "llmc/emulator/memory.h"

namespace llmc::emulator {
namespace {

constexpr const char* kEvents[] = {"mma",  "wgmma", "block_barrier", "mbarrier_wait", "exchange",
                                   "exp2", "tanh",  "rsqrt",         "reciprocal"};
constexpr const char* kAccesses[] = {"plain", "ldmatrix", "cp_async", "bulk", "wgmma"};
constexpr int kEventCount = int(Event::kCount), kAccessCount = int(Access::kCount);

// The lanes' parts of one execution of an instruction by a warp.
struct Request {
    uint64_t address[32];
    uint32_t lanes = 0;
};
struct Total {
    uint64_t requests = 0, actual = 0, ideal = 0, bytes = 0;  // sectors or wavefronts
    void add(const Total& t) { requests += t.requests, actual += t.actual, ideal += t.ideal, bytes += t.bytes; }
};
// An instruction as one warp executes it: requests that some lanes have not reached yet, from number `first` on.
struct Stream {
    std::deque<Request> open;
    uint32_t first = 0, executed[32] = {};
};
struct Site {
    int bytes = 0;
    bool write = false, shared = false;
    Access access = Access::plain;
    Total total;
    std::vector<Stream> warps;
};

// Sectors of an allocation, each counted once a block: [write].
struct Traffic {
    size_t bytes = 0;  // of the allocation
    uint64_t once[2] = {};
};

struct Counters {
    bool on = false;
    unsigned counted = 0;  // blocks
    Launch launch;
    uint64_t events[kEventCount] = {};
    std::unordered_map<const void*, Site> sites;
    Total without_lanes[kAccessCount][2][2];  // [access][shared][write]
    std::unordered_set<uint64_t> touched[2];  // sectors of this block: [write]
    std::map<const char*, Traffic> allocations;
};
Counters g_counters;  // one worker only: grid.cpp sees to that
unsigned g_launches = 0;

size_t distinct(std::vector<uint64_t>& v) {
    std::sort(v.begin(), v.end());
    v.erase(std::unique(v.begin(), v.end()), v.end());
    return v.size();
}

template <class Sector>
void touch(Counters& c, Sector begin, Sector end, bool write) {
    Traffic* traffic = nullptr;
    for (; begin != end; ++begin) {
        if (!c.touched[write].insert(*begin).second) continue;
        if (!traffic) {
            const Allocation of = allocation_of(reinterpret_cast<const void*>(*begin * 32 + 31));
            traffic = &c.allocations[of.begin];
            traffic->bytes = of.bytes;
        }
        ++traffic->once[write];
    }
}

void count_sectors(Counters& c, const Request& r, int bytes, bool write, Total& total) {
    static thread_local std::vector<uint64_t> sectors, words;
    sectors.clear(), words.clear();
    const int unit = std::min(bytes, 4);
    for (int lane = 0; lane < 32; ++lane) {
        if (!(r.lanes >> lane & 1)) continue;
        for (int b = 0; b < bytes; b += unit) {
            words.push_back((r.address[lane] + uint64_t(b)) / uint64_t(unit));
            sectors.push_back((r.address[lane] + uint64_t(b)) / 32);
        }
    }
    const uint64_t useful = distinct(words) * uint64_t(unit);
    total.add({1, distinct(sectors), (useful + 31) / 32, useful});
    touch(c, sectors.begin(), sectors.end(), write);
}

// The words of rows of at most 16 bytes that are served together, in order, each once.
template <class Address>
int distinct_words(int count, int bytes, Address&& address, uint64_t (&words)[32 * 4]) {
    int used = 0;
    for (int i = 0; i < count; ++i)
        for (int b = 0; b < std::max(bytes, 4); b += 4) words[used++] = (address(i) + uint64_t(b)) / 4;
    std::sort(words, words + used);
    return int(std::unique(words, words + used) - words);
}
uint64_t wavefronts(const uint64_t* words, int count) {
    int in_bank[32] = {}, most = 0;
    for (int i = 0; i < count; ++i) most = std::max(most, ++in_bank[words[i] % 32]);
    return uint64_t(most);
}

void count_wavefronts(const Request& r, int bytes, Total& total) {
    static thread_local std::vector<uint64_t> all;
    all.clear();
    const int together = bytes >= 16 ? 8 : bytes == 8 ? 16 : 32;
    uint64_t actual = 0;
    for (int first = 0; first < 32; first += together) {
        int lanes[32], count = 0;
        for (int lane = first; lane < first + together; ++lane)
            if (r.lanes >> lane & 1) lanes[count++] = lane;
        uint64_t words[32 * 4];
        const int used = distinct_words(count, bytes, [&](int i) { return r.address[lanes[i]]; }, words);
        actual += wavefronts(words, used);
        all.insert(all.end(), words, words + used);
    }
    const uint64_t useful = distinct(all);
    total.add({1, actual, (useful + 31) / 32, useful * 4});
}

void close(Counters& c, Site& site, const Request& r) {
    if (site.shared)
        count_wavefronts(r, site.bytes, site.total);
    else
        count_sectors(c, r, site.bytes, site.write, site.total);
}

bool counting() { return g_counters.on && in_kernel(); }

unsigned blocks_of(const Launch& launch) { return launch.grid.x * launch.grid.y * launch.grid.z; }
bool is_persistent(const Launch& launch) { return blocks_of(launch) <= 4 * unsigned(options().multiprocessors); }
bool is_counted(const Launch& launch, unsigned block) {
    const unsigned cluster = unsigned(launch.cluster);
    if (!is_persistent(launch)) return block < std::max(16u, cluster);
    return block < cluster || block + cluster >= blocks_of(launch);
}

nlohmann::json json(const Total& t) {
    return {{"requests", t.requests}, {"actual", t.actual}, {"ideal", t.ideal}, {"bytes", t.bytes}};
}
std::string name_of(bool shared, bool write, int access) {
    return std::string(shared ? "shared" : "global") + (write ? " write " : " read ") + kAccesses[access];
}

// Bytes from the start of the program or module that has this code, which `nm` and `addr2line` count from too.
uint64_t offset_in_module(const void* code) {
    Dl_info info;
    if (!dladdr(code, &info)) return 0;
    return uint64_t(static_cast<const char*>(code) - static_cast<const char*>(info.dli_fbase));
}

// {"global read plain": {...}, ...}
nlohmann::json memory_json(const Counters& c) {
    std::map<std::string, Total> totals;
    for (const auto& [at, s] : c.sites) totals[name_of(s.shared, s.write, int(s.access))].add(s.total);
    for (int access = 0; access < kAccessCount; ++access)
        for (int shared = 0; shared < 2; ++shared)
            for (int write = 0; write < 2; ++write)
                if (const Total& t = c.without_lanes[access][shared][write]; t.requests)
                    totals[name_of(shared, write, access)].add(t);
    nlohmann::json found = nlohmann::json::object();
    for (const auto& [name, total] : totals) found[name] = json(total);
    return found;
}

// The instructions that are furthest from ideal.
nlohmann::json wasteful_json(const Counters& c) {
    std::vector<std::pair<uint64_t, const void*>> wasted;
    for (const auto& [at, s] : c.sites)
        if (s.total.actual > s.total.ideal) wasted.push_back({s.total.actual - s.total.ideal, at});
    std::sort(wasted.rbegin(), wasted.rend());
    wasted.resize(std::min<size_t>(wasted.size(), 5));
    nlohmann::json found = nlohmann::json::array();
    for (const auto& [waste, at] : wasted) {
        const Site& s = c.sites.at(at);
        found.push_back({{"at", offset_in_module(at)},
                         {"what", name_of(s.shared, s.write, int(s.access))},
                         {"total", json(s.total)}});
    }
    return found;
}

void start_anew(const Launch& launch) {
    g_counters = {};
    g_counters.launch = launch;
}

void write_line(const Counters& c) {
    const Launch& l = c.launch;
    nlohmann::json events, traffic = nlohmann::json::array();
    for (int i = 0; i < kEventCount; ++i) events[kEvents[i]] = c.events[i];
    for (const auto& [begin, of] : c.allocations) traffic.push_back({of.bytes, of.once[0], of.once[1]});
    const nlohmann::json line = {{"kernel", offset_in_module(l.kernel)},
                                 {"launch", g_launches},
                                 {"blocks", blocks_of(l)},
                                 {"counted", c.counted},
                                 {"threads", l.block.x * l.block.y * l.block.z},
                                 {"shared", l.shared},
                                 {"cluster", l.cluster},
                                 {"events", events},
                                 {"traffic", traffic},
                                 {"memory", memory_json(c)},
                                 {"sites", wasteful_json(c)}};
    std::ofstream(std::getenv("LLMC_COUNTS"), std::ios::app) << line << "\n";
}

}  // namespace

void count(Event event, uint64_t times) {
    if (counting()) g_counters.events[int(event)] += times;
}

void count_access(const void* p, int bytes, bool write, Access access, const void* site) {
    if (!counting()) return;
    Counters& c = g_counters;
    const Thread& me = self();
    const Block& block = *me.block;
    const auto* at = static_cast<const unsigned char*>(p);
    const bool shared = at >= block.shared && at < block.shared + block.shared_bytes;
    if (!shared && !is_accessible(p, size_t(bytes))) return;  // registers and arguments of the kernel
    Site& s = c.sites[site];
    s.bytes = bytes, s.write = write, s.shared = shared, s.access = access;
    if (s.warps.empty()) s.warps.resize(block.warps.size());
    Stream& warp = s.warps[size_t(me.linear / 32)];
    const uint32_t number = warp.executed[me.lane]++ - warp.first;
    while (warp.open.size() <= number) warp.open.emplace_back();
    Request& request = warp.open[number];
    request.address[me.lane] = shared ? uint64_t(at - block.shared) : reinterpret_cast<uint64_t>(p);
    request.lanes |= 1u << me.lane;
    while (!warp.open.empty() && warp.open.front().lanes == ~0u) {
        close(c, s, warp.open.front());
        warp.open.pop_front();
        ++warp.first;
    }
}

void count_shared_rows(const void* const* rows, int count, bool write, Access access) {
    if (!counting()) return;
    const unsigned char* shared = self().block->shared;
    uint64_t actual = 0;
    for (int first = 0; first < count; first += 8) {
        const auto address = [&](int i) {
            return uint64_t(static_cast<const unsigned char*>(rows[first + i]) - shared);
        };
        uint64_t words[32 * 4];
        actual += wavefronts(words, distinct_words(std::min(8, count - first), 16, address, words));
    }
    g_counters.without_lanes[int(access)][1][write].add(
        {1, actual, uint64_t(count * 16 + 127) / 128, uint64_t(count) * 16});
}

void count_global_bytes(const void* p, size_t bytes, bool write, Access access) {
    if (!counting() || bytes == 0) return;
    Counters& c = g_counters;
    const uint64_t begin = reinterpret_cast<uint64_t>(p), first = begin / 32, last = (begin + bytes - 1) / 32;
    c.without_lanes[int(access)][0][write].add({1, last - first + 1, (bytes + 31) / 32, bytes});
    std::vector<uint64_t> sectors(last - first + 1);
    for (uint64_t s = first; s <= last; ++s) sectors[s - first] = s;
    touch(c, sectors.begin(), sectors.end(), write);
}

void counted_copy16(void* destination, const void* source) {
    const char* site = static_cast<const char*>(__builtin_return_address(0));
    count_access(destination, 16, true, Access::cp_async, site);
    if (source) count_access(source, 16, false, Access::cp_async, site + 1);
    *static_cast<uint4*>(destination) = {~0u, ~0u, ~0u, ~0u};
}

bool is_wanted(const Launch& launch, unsigned block) {
    return !std::getenv("LLMC_COUNTS") || std::getenv("LLMC_COUNT_RUN_ALL") || is_counted(launch, block);
}

void begin_counting_grid(const Launch& launch) {
    start_anew(launch);
    ++g_launches;
}

void begin_counting_block(unsigned block) {
    Counters& c = g_counters;
    c.on = std::getenv("LLMC_COUNTS") && is_counted(c.launch, block);
    c.counted += c.on ? unsigned(c.launch.cluster) : 0;
}

void end_counting_block() {
    Counters& c = g_counters;
    for (auto& [at, site] : c.sites)
        for (Stream& warp : site.warps) {
            for (const Request& r : warp.open)
                if (r.lanes) close(c, site, r);
            warp = {};
        }
    for (auto& sectors : c.touched) sectors.clear();
    if (!std::exchange(c.on, false) || !is_persistent(c.launch)) return;
    write_line(c);
    start_anew(Launch(c.launch));
}

void end_counting() {
    if (g_counters.counted) write_line(g_counters);
}

}  // namespace llmc::emulator

// --- The calls of -fsanitize=thread. gcc, "Program instrumentation options" ---

namespace {
void ordinary(const void* p, int bytes, bool write, const void* site) {
    llmc::emulator::count_access(p, bytes, write, llmc::emulator::Access::plain, site);
}
void range(const void* p, unsigned long bytes, bool write, const char* site) {
    for (unsigned long i = 0; i + 4 <= bytes; i += 4) ordinary(static_cast<const char*>(p) + i, 4, write, site + i);
}
}  // namespace

#define LLMC_ACCESS(n)                                                                             \
    void __tsan_read##n(void* p) { ordinary(p, n, false, __builtin_return_address(0)); }           \
    void __tsan_write##n(void* p) { ordinary(p, n, true, __builtin_return_address(0)); }           \
    void __tsan_unaligned_read##n(void* p) { ordinary(p, n, false, __builtin_return_address(0)); } \
    void __tsan_unaligned_write##n(void* p) { ordinary(p, n, true, __builtin_return_address(0)); }
#define LLMC_ATOMIC(n, T)                                                             \
    T __tsan_atomic##n##_load(const volatile T* p, int) {                             \
        ordinary(const_cast<const T*>(p), n / 8, false, __builtin_return_address(0)); \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                  \
    }                                                                                 \
    void __tsan_atomic##n##_store(volatile T* p, T v, int) {                          \
        ordinary(const_cast<const T*>(p), n / 8, true, __builtin_return_address(0));  \
        __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                     \
    }

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_read_range(void* p, unsigned long n) {
    range(p, n, false, static_cast<const char*>(__builtin_return_address(0)));
}
void __tsan_write_range(void* p, unsigned long n) {
    range(p, n, true, static_cast<const char*>(__builtin_return_address(0)));
}
LLMC_ACCESS(1)
LLMC_ACCESS(2)
LLMC_ACCESS(4)
LLMC_ACCESS(8)
LLMC_ACCESS(16)
LLMC_ATOMIC(8, unsigned char)
LLMC_ATOMIC(32, unsigned)
}
#endif
