#include "llmc/emulator/hopper.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "llmc/core/error.h"
#include "llmc/emulator/counters.h"
#include "llmc/emulator/limits.h"
#include "llmc/emulator/memory.h"

namespace llmc::emulator {
namespace {

constexpr int kWarpgroup = 128;

Limits gpu() { return limits(options().capability); }

struct MBarrier {
    uint32_t phase : 1, count : 15, pending : 16;
    int32_t bytes : 24;   // expected and not yet arrived; negative: arrived before they were expected
    uint32_t phases : 8;  // that are over, modulo 256
};
static_assert(sizeof(MBarrier) == sizeof(uint64_t));
constexpr int kMostArrivals = (1 << 15) - 1;  // 2^20 - 1 on a GPU
constexpr int kMostBytes = (1 << 20) - 1;     // that a phase expects

MBarrier& at(uint64_t* barrier) { return *reinterpret_cast<MBarrier*>(barrier); }

ptrdiff_t offset_of(const void* p) { return static_cast<const unsigned char*>(p) - self().block->shared; }

uint64_t* in_block(uint64_t* barrier, int rank) {
    if (rank < 0) return barrier;
    if (size_t(rank) >= cluster().blocks.size()) fail("mbarrier: the cluster has no block " + std::to_string(rank));
    const Block& block = *cluster().blocks[size_t(rank)];
    if (block.alive == 0) fail("mbarrier: block " + std::to_string(rank) + " of the cluster has ended, and its memory");
    if (block.unfenced_barriers)
        fail("mbarrier: no mbarrier_init_fence followed the initialisation in block " + std::to_string(rank));
    return reinterpret_cast<uint64_t*>(block.shared + offset_of(barrier));
}

// The order token of a phase, one of the barrier's own bytes: a wait for a phase is ordered after the arrivals in it.
char* order_of(uint64_t* barrier, uint32_t phase) { return reinterpret_cast<char*>(barrier) + phase; }

void finish_phase(MBarrier& m) {
    if (m.pending > 0 || m.bytes != 0) return;
    m.phase ^= 1;
    m.phases += 1;
    m.pending = m.count;
}

// A box into shared memory, 128-byte swizzled, with zeros outside of the matrix. 16 bytes stay together.
void copy_box(Block& block, uint32_t to, const gpu::TensorMap& map, int column, int row) {
    std::vector<unsigned char>& view = async_view(block);
    for (int i = 0; i < map.box_rows; ++i)
        for (int j = 0; j < 64; j += 8) {
            const int64_t r = int64_t{row} + i, c = int64_t{column} + j;
            bf16 chunk[8] = {};
            const bf16* source = map.matrix + r * map.stride + c;
            for (int k = 0; r >= 0 && r < map.rows && k < 8; ++k)
                if (c + k >= 0 && c + k < map.columns) chunk[k] = source[k];
            const uint32_t offset = swizzled(to + uint32_t(i * 64 + j) * 2);
            record_write(block.shared + offset, sizeof chunk);
            const Quiet quiet;
            std::memcpy(block.shared + offset, chunk, sizeof chunk);
            std::memcpy(view.data() + offset, chunk, sizeof chunk);
        }
}

// Of a copy: what it reads, once for all blocks of the cluster, and writes to each of them.
void count_box(const gpu::TensorMap& map, int column, int row, const unsigned char* to, int blocks) {
    for (int i = 0; i < map.box_rows; ++i) {
        const void* chunks[8];
        for (int j = 0; j < 8; ++j) chunks[j] = to + swizzled(uint32_t(i * 128 + j * 16));
        for (int block = 0; block < blocks; ++block) count_shared_rows(chunks, 8, true, Access::bulk);
        const int64_t r = int64_t{row} + i, columns = std::min<int64_t>(64, map.columns - column);
        if (r < 0 || r >= map.rows || column < 0 || columns <= 0) continue;
        count_global_bytes(map.matrix + r * map.stride + column, size_t(columns) * sizeof(bf16), false, Access::bulk);
    }
}

}  // namespace

std::vector<unsigned char>& async_view(Block& block) {
    const Quiet quiet;
    if (block.async_view.empty()) block.async_view.assign(block.shared_bytes, kPoison);
    return block.async_view;
}

void mbarrier_initialise(uint64_t* barrier, int count, const Location& where) {
    if (count < 1 || count > kMostArrivals)
        fail_at(where, "mbarrier: a count of " + std::to_string(count) + ", 1 to " + std::to_string(kMostArrivals) +
                           " are possible");
    at(barrier) = {0, uint32_t(count), uint32_t(count), 0, 0};
    self().block->unfenced_barriers = true;
}

void fence_barriers(const Location& where) {
    need(gpu().clusters, "fence.mbarrier_init", where);
    self().block->unfenced_barriers = false;
}

void mbarrier_arrive(uint64_t* barrier, int rank, int bytes, const Location& where) {
    self().where = where;
    if (rank >= 0) need(gpu().clusters, "an arrival at another block's mbarrier", where);
    if (bytes < 0 || bytes > kMostBytes)
        fail("mbarrier: " + std::to_string(bytes) + " expected bytes, a phase counts up to " +
             std::to_string(kMostBytes));
    barrier = in_block(barrier, rank);
    MBarrier& m = at(barrier);
    if (m.pending == 0) fail("mbarrier: more arrivals than it was made for");
    order_release(order_of(barrier, m.phase));
    m.bytes += bytes;
    --m.pending;
    made_progress();
    finish_phase(m);
    yield_at_random();
}

void mbarrier_wait_for(uint64_t* barrier, int parity, const Location& where) {
    need(gpu().clusters, "mbarrier.try_wait", where);
    count(Event::mbarrier_wait);
    self().waits_for = "mbarrier";
    self().where = where;
    const uint32_t before = at(barrier).phases;
    while (int(at(barrier).phase) == parity) {
        if (at(barrier).phases != before)
            fail_at(where, "mbarrier: a thread that waits has missed the end of a phase, and the next one is over too");
        yield();
    }
    order_acquire(order_of(barrier, uint32_t(parity)));
}

void start_bulk_copy(void* destination, const gpu::TensorMap& whole, uint64_t* barrier, int column, int row, int matrix,
                     uint16_t ranks, const Location& where) {
    need(gpu().bulk_copies, "cp.async.bulk.tensor", where);
    self().where = where;
    if ((matrix >= 0) != (whole.matrices > 0)) fail("TMA: the copy has another number of dimensions than the map");
    gpu::TensorMap map = whole;
    if (matrix >= whole.matrices)
        map.rows = 0;  // outside: zeros
    else if (matrix > 0)
        map.matrix += matrix * map.rows * map.stride;
    const ptrdiff_t to = offset_of(destination), barrier_at = offset_of(barrier);
    if (self().block->unfenced_barriers) fail("TMA: no mbarrier_init_fence followed the initialisation of mbarriers");
    const int64_t all_rows = whole.rows * std::max<int64_t>(whole.matrices, 1);
    if (!is_accessible(whole.matrix, size_t((all_rows - 1) * whole.stride + whole.columns) * sizeof(bf16)))
        fail("TMA: the tensor map's matrix is not in memory of the GPU");
    if (to % 1024) fail("TMA: the tile is not 1024-byte aligned");
    const int64_t bytes = int64_t{map.box_rows} * 128;
    if (to < 0 || to + bytes > int64_t(self().block->shared_bytes)) fail("TMA: the tile is outside shared memory");
    if (kCounts) count_box(map, column, row, static_cast<const unsigned char*>(destination), std::popcount(ranks));
    BulkCopies& copies = cluster().bulk_copies;
    order_release(&copies.order);
    const Quiet quiet;
    copies.on_their_way.push_back({int(random_bits() % 4), [=, &copies, blocks = cluster().blocks] {
                                       order_acquire(&copies.order);
                                       for (size_t rank = 0; rank < blocks.size(); ++rank) {
                                           if (!(ranks >> rank & 1)) continue;
                                           if (blocks[rank]->alive == 0) {
                                               report("TMA: a copy arrives in block " + std::to_string(rank) +
                                                      " of the cluster, which has ended, and its memory");
                                               return;
                                           }
                                           copy_box(*blocks[rank], uint32_t(to), map, column, row);
                                           auto* arrived = reinterpret_cast<uint64_t*>(blocks[rank]->shared +
                                                                                       barrier_at);
                                           order_release(order_of(arrived, at(arrived).phase));
                                           at(arrived).bytes -= int32_t(bytes);
                                           finish_phase(at(arrived));
                                       }
                                   }});
}

void fence_proxy(const Location& where) {
    need(gpu().bulk_copies, "fence.proxy.async", where);
    Block& block = *self().block;
    const Quiet quiet;
    std::memcpy(async_view(block).data(), block.shared, block.shared_bytes);
}

float4 sum_in_memory(float* p, const float (&v)[4]) {
    record_read(p, 16);
    return {p[0] + v[0], p[1] + v[1], p[2] + v[2], p[3] + v[3]};
}

void issue_product(const WarpgroupProduct& product, const Location& where) {
    need(gpu().wgmma, "wgmma", where);
    if (!self().products.fenced) fail_at(where, "wgmma: no wgmma_fence before the first product");
    if (product.a_registers && !self().products.registers_fenced)
        fail_at(where, "wgmma: no wgmma_fence between wgmma_wait and a product whose A is in registers");
    self().where = where;
    const Quiet quiet;
    self().products.open.push_back(product);
}

void fence_products(const Location& where) {
    need(gpu().wgmma, "wgmma.fence", where);
    self().products.fenced = self().products.registers_fenced = true;
}

void set_registers(int registers, const Location& where) {
    need(gpu().clusters, "setmaxnreg", where);
    Thread& me = self();
    std::vector<int>& of_warp = me.block->registers;
    const size_t mine = size_t(me.linear / 32);
    const int all = int(of_warp.size()) * registers_at_start(of_warp.size());
    me.where = where;
    me.waits_for = "registers of other warps (setmaxnreg)";
    const auto taken = [&] {
        int sum = registers - of_warp[mine];
        for (const int n : of_warp) sum += n;
        return sum;
    };
    while (taken() > all) yield();
    of_warp[mine] = registers;
    made_progress();
}

void commit_products() {
    PendingProducts& mine = self().products;
    Thread& first = self().block->threads[size_t(self().linear / kWarpgroup * kWarpgroup)];
    order_release(&first.products.order[0]);
    {
        const Quiet quiet;
        mine.groups.push_back(std::move(mine.open));
        mine.open.clear();
    }
    ++mine.committed;
    made_progress();
    yield_at_random();
}

void wait_for_products(int most_pending, const Location& where) {
    Thread& me = self();
    Thread* group = &me.block->threads[size_t(me.linear / kWarpgroup * kWarpgroup)];
    const int64_t needed = me.products.committed - most_pending;
    me.waits_for = "wgmma";
    me.where = where;
    me.products.registers_fenced = false;
    for (int i = 0; i < kWarpgroup; ++i)
        while (group[i].products.committed < needed) yield();
    order_acquire(&group->products.order[0]);
    const auto of_thread = [&](int i) -> PendingProducts& { return group[i].products; };
    for (; of_thread(0).finished < needed;) {
        for (int i = 1; i < kWarpgroup; ++i)
            if (of_thread(i).groups.front().size() != of_thread(0).groups.front().size())
                fail("wgmma: the threads of a warpgroup commit different numbers of products");
        for (size_t n = 0; n < of_thread(0).groups.front().size(); ++n) {
            const WarpgroupProduct* products[kWarpgroup];
            for (int i = 0; i < kWarpgroup; ++i) products[i] = &of_thread(i).groups.front()[n];
            multiply_warpgroup(*me.block, products);
        }
        const Quiet quiet;
        for (int i = 0; i < kWarpgroup; ++i) of_thread(i).groups.pop_front(), ++of_thread(i).finished;
    }
    order_release(&group->products.order[1]);
    order_acquire(&group->products.order[1]);
}

}  // namespace llmc::emulator

namespace llmc::gpu {

TensorMap tensor_map(const bf16* matrix, int64_t rows, int64_t columns, int64_t stride, int box_rows) {
    const auto refuse = [&](const auto&... why) {
        fail("cannot make a tensor map of ", rows, " x ", columns, " (error 1): ", why...);
    };
    if (reinterpret_cast<uintptr_t>(matrix) % 16) refuse("the matrix does not start at a multiple of 16 bytes");
    constexpr int64_t kMost = int64_t{1} << 32;
    if (rows < 1 || columns < 1 || rows > kMost || columns > kMost) refuse("sizes are 1 to 2^32");
    if (stride * 2 % 16) refuse("rows are ", stride * 2, " bytes apart, which is not a multiple of 16");
    if (stride < columns || stride >= kMost * 128)
        refuse("a stride of ", stride, " elements is too small or too large");
    if (box_rows < 1 || box_rows > 256) refuse("a box has 1 to 256 rows, not ", box_rows);
    return {matrix, rows, columns, stride, box_rows};
}

TensorMap batch_map(const bf16* first, int64_t count, int64_t rows, int64_t columns, int box_rows) {
    if (count < 1 || count > int64_t{1} << 32)
        fail("cannot make a tensor map of ", count, " matrices (error 1): sizes are 1 to 2^32");
    TensorMap map = tensor_map(first, rows, columns, columns, box_rows);
    map.matrices = count;
    return map;
}

}  // namespace llmc::gpu
