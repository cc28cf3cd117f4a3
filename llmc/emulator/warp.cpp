#include "llmc/emulator/warp.h"

#include <algorithm>
#include <string>

#include "llmc/emulator/counters.h"

namespace llmc::emulator {
namespace {

bool same(const Location& a, const Location& b) {
    return a.line() == b.line() && (a.file_name() == b.file_name() || !std::strcmp(a.file_name(), b.file_name()));
}

// Waits until expected() threads have arrived at this barrier. That number may decrease meanwhile: threads that return
// from the kernel are not waited for.
template <class Expected>
void wait_at(Barrier& barrier, Expected&& expected, const char* what, const Location& where, bool orders_memory) {
    Thread& me = self();
    me.where = where;
    me.waits_for = what;
    if (barrier.arrived == 0) {
        barrier.what = what;
        barrier.where = where;
    } else if (barrier.what != what || !same(barrier.where, where)) {
        fail("threads meet at different barriers: " + std::string(barrier.what) + " in line " +
             std::to_string(barrier.where.line()) + " and " + what);
    }
    const unsigned generation = barrier.generation;
    char* order = &barrier.order[generation & 1];
    if (orders_memory) order_release(order);
    ++barrier.arrived;
    made_progress();
    while (generation == barrier.generation) {
        if (barrier.arrived >= expected()) {
            barrier.arrived = 0;
            ++barrier.generation;
            break;
        }
        yield();
    }
    if (orders_memory) order_acquire(order);
    yield_at_random();
}

// Joins a collective operation of the warp's lanes.
template <class Last>
void join(uint32_t mask, const char* what, const Location& where, bool orders_memory, Last&& when_last) {
    Thread& me = self();
    Warp& warp = *me.warp;
    me.where = where;
    if (!(mask >> me.lane & 1)) fail(std::string(what) + " by a lane outside its own mask");
    if (warp.barrier.arrived && warp.mask != mask)
        fail(std::string(what) + " with different masks in the lanes of a warp");
    warp.mask = mask;
    const auto expected = [&] { return std::popcount(mask & warp.alive); };
    if (warp.barrier.arrived + 1 >= expected()) when_last();
    wait_at(warp.barrier, expected, what, where, orders_memory);
}

}  // namespace

void sync_block(const Location& where) {
    count(Event::block_barrier);
    Block& block = *self().block;
    wait_at(block.barrier, [&] { return block.alive; }, "__syncthreads", where, true);
}

void sync_named(int id, int threads, const Location& where) {
    if (id < 0 || id > 15 || threads % 32) fail("bar.sync: barrier 0 to 15, and a multiple of 32 threads");
    // PTX counts whole warps: a warp of which only some lanes arrive would count as all of them.
    join(kFullWarp, "bar.sync", where, false, [] {});
    wait_at(self().block->named[id], [=] { return threads; }, "bar.sync", where, true);
}

void sync_cluster(const Location& where) {
    Cluster& c = cluster();
    wait_at(c.barrier, [&] { return c.alive; }, "barrier.cluster", where, true);
}

void sync_warp(uint32_t mask, const Location& where) {
    join(mask, "__syncwarp", where, true, [] {});
}

uint64_t exchange(uint32_t mask, uint64_t value, int source, const char* what, const Location& where) {
    Thread& me = self();
    Warp& warp = *me.warp;
    count(Event::exchange);
    if (!(mask & warp.alive & 1u << source)) {
        me.where = where;
        fail(std::string(what) + " reads lane " + std::to_string(source) + ", which takes no part");
    }
    const int parity = warp.parity;  // the next exchange may begin before the last lane has read this one
    warp.exchanged[parity][me.lane] = value;
    join(mask, what, where, false, [&] { warp.parity ^= 1; });
    return warp.exchanged[parity][source];
}

void collective(void* deposit, Compute compute, const char* what, const Location& where) {
    Thread& me = self();
    Warp& warp = *me.warp;
    if (warp.alive != kFullWarp) {
        me.where = where;
        fail(std::string(what) + " needs all 32 lanes of the warp");
    }
    me.deposit = deposit;
    join(kFullWarp, what, where, false, [&] {
        void* deposits[32];
        for (int lane = 0; lane < 32; ++lane) deposits[lane] = warp.lanes[lane].deposit;
        compute(deposits);
    });
}

uint32_t ballot(uint32_t mask, bool yes, const Location& where) {
    if (mask != kFullWarp) {
        self().where = where;
        fail("__ballot_sync: the emulator knows only that of a whole warp");
    }
    uint32_t votes = yes;
    collective(
        &votes,
        [](void* const(&deposits)[32]) {
            uint32_t all = 0;
            for (int lane = 0; lane < 32; ++lane) all |= *static_cast<uint32_t*>(deposits[lane]) << lane;
            for (void* deposit : deposits) *static_cast<uint32_t*>(deposit) = all;
        },
        "__ballot_sync", where);
    return votes;
}

}  // namespace llmc::emulator
