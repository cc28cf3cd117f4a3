#include "llmc/emulator/memory.h"

#include <cstdint>
#include <map>
#include <string>

namespace llmc::emulator {
namespace {

struct Range {
    const char *begin = nullptr, *end = nullptr;
    bool contains(const void* p, size_t bytes) const {
        const char* at = static_cast<const char*>(p);
        return at >= begin && at <= end && size_t(end - at) >= bytes;
    }
};

std::map<const char*, const char*>& allocations() {  // first byte: end
    static std::map<const char*, const char*> all;
    return all;
}
unsigned g_generation = 1;  // of the allocations

bool in_shared_memory(const void* p) {
    const auto* at = static_cast<const unsigned char*>(p);
    for (const Block* b : cluster().blocks)
        if (at >= b->shared && at < b->shared + b->shared_bytes) return true;
    return false;
}

bool on_stack(const void* p) {  // of the running thread
    const char here = 0;
    return reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(&here) + 4096 < Stacks::bytes();
}

void check_alignment(const void* p, size_t bytes, const char* what) {
    if (const auto rest = reinterpret_cast<uintptr_t>(p) % bytes; rest)
        fail(std::string(what) + " of an address that is not a multiple of " + std::to_string(bytes) + " bytes (" +
             std::to_string(rest) + " too many)");
}

}  // namespace

void remember_allocation(const void* pointer, size_t bytes) {
    const char* begin = static_cast<const char*>(pointer);
    allocations()[begin] = begin + bytes;
    ++g_generation;
}
void forget_allocation(const void* pointer) {
    allocations().erase(static_cast<const char*>(pointer));
    ++g_generation;
}

bool is_accessible(const void* p, size_t bytes) {
    thread_local Range last;
    thread_local unsigned generation = 0;
    if (generation == g_generation && last.contains(p, bytes)) return true;
    auto after = allocations().upper_bound(static_cast<const char*>(p));
    if (after == allocations().begin()) return false;
    const auto found = std::prev(after);
    last = {found->first, found->second};
    generation = g_generation;
    return last.contains(p, bytes);
}

void check_global(const void* p, size_t bytes, const char* what, const Location& where) {
    if (reinterpret_cast<uintptr_t>(p) % bytes == 0 && is_accessible(p, bytes)) return;
    self().where = where;
    if (in_shared_memory(p)) fail(std::string(what) + " is of global memory, this address is in shared memory");
    if (on_stack(p)) fail(std::string(what) + " is of global memory, this address is a variable of the thread");
    if (!is_accessible(p, 1)) fail(std::string(what) + " of an address that is not in memory of the GPU");
    check_alignment(p, bytes, what);
    fail(std::string(what) + " reaches beyond the end of an allocation");
}

void check_shared16(const void* p, const char* what, const Location& where) {
    const Block& block = *self().block;
    const auto* at = static_cast<const unsigned char*>(p);
    const bool inside = at >= block.shared && at + 16 <= block.shared + block.shared_bytes;
    if (inside && reinterpret_cast<uintptr_t>(p) % 16 == 0) return;
    self().where = where;
    if (inside) check_alignment(p, 16, what);
    if (is_accessible(p, 1)) fail(std::string(what) + " is of shared memory, this address is in global memory");
    fail(std::string(what) + " of an address outside of the block's shared memory");
}

}  // namespace llmc::emulator
