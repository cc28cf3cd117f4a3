#include "llmc/gpt2/arena.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "llmc/core/alignment.h"

namespace llmc {
namespace {

bool meet(const ArenaBuffer& a, const ArenaBuffer& b) {
    for (const Lifetime& x : a.lives)
        for (const Lifetime& y : b.lives)
            if (x.first <= y.last && y.first <= x.last) return true;
    return false;
}

size_t most_alive(const std::vector<ArenaBuffer>& buffers) {
    std::map<int, size_t> at;  // the maximum is reached when some lifetime begins
    for (const ArenaBuffer& b : buffers)
        for (const Lifetime& life : b.lives) at[life.first] = 0;
    size_t most = 0;
    for (auto& [moment, bytes] : at) {
        for (const ArenaBuffer& b : buffers)
            if (std::any_of(b.lives.begin(), b.lives.end(),
                            [m = moment](const Lifetime& life) { return life.first <= m && m <= life.last; }))
                bytes += aligned(b.bytes);
        most = std::max(most, bytes);
    }
    return most;
}

}  // namespace

ArenaPlan plan_arena(const std::vector<ArenaBuffer>& buffers) {
    ArenaPlan plan;
    plan.offsets.resize(buffers.size());
    plan.most_alive = most_alive(buffers);
    std::vector<size_t> order(buffers.size()), placed;
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return buffers[a].bytes > buffers[b].bytes; });
    for (size_t i : order) {
        std::vector<size_t> in_the_way;
        for (size_t other : placed)
            if (meet(buffers[i], buffers[other])) in_the_way.push_back(other);
        std::sort(in_the_way.begin(), in_the_way.end(),
                  [&](size_t a, size_t b) { return plan.offsets[a] < plan.offsets[b]; });
        size_t offset = 0;
        for (size_t other : in_the_way) {
            if (offset + aligned(buffers[i].bytes) <= plan.offsets[other]) break;
            offset = std::max(offset, plan.offsets[other] + aligned(buffers[other].bytes));
        }
        plan.offsets[i] = offset;
        plan.bytes = std::max(plan.bytes, offset + aligned(buffers[i].bytes));
        placed.push_back(i);
    }
    return plan;
}

}  // namespace llmc
