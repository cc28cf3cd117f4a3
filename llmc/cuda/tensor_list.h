// Many tensors in one launch: all elements of all tensors are divided into blocks, and each block looks up the tensor that
// it belongs to.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "llmc/cuda/host.h"
#include "llmc/ops/device.h"

namespace llmc::cuda {

using namespace gpu;

constexpr int kListThreads = 256, kListBlock = kListThreads * 8;  // elements: of the smallest block

// On the device: one entry for each tensor, with what the kernel needs. Entry has `int64_t count` and `int64_t
// first_block`.
template <class Entry>
struct TensorList {
    const Entry* entries;
    int size;
};

// The entry of the running block of kBlock elements, and the index of its first element in the tensor.
template <int kBlock, class Entry>
GPU const Entry& entry_of_block(const TensorList<Entry>& list, int64_t& first) {
    int low = 0, high = list.size - 1;  // the last entry with first_block <= blockIdx.x
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (list.entries[middle].first_block <= int64_t(blockIdx.x))
            low = middle;
        else
            high = middle - 1;
    }
    const Entry& entry = list.entries[low];
    first = (int64_t(blockIdx.x) - entry.first_block) * kBlock;
    return entry;
}

// Numbers the blocks of all entries; returns how many there are.
template <int kBlock, class Entry>
int64_t number_blocks(std::vector<Entry>& entries) {
    static_assert(kBlock >= kListBlock);  // for which scratch.cu makes room
    int64_t blocks = 0;
    for (Entry& e : entries) {
        e.first_block = blocks;
        blocks += ceil_div(e.count, kBlock);
    }
    return blocks;
}

template <class Entry>
size_t list_bytes(const std::vector<Entry>& entries) {
    return entries.size() * sizeof(Entry);
}

// Copies the entries to `memory` on the device. The copy is enqueued; the host does not wait.
template <class Entry>
TensorList<Entry> upload_list(const std::vector<Entry>& entries, Entry* memory) {
    device::copy_to_device(memory, entries.data(), list_bytes(entries));
    return {memory, int(entries.size())};
}

}  // namespace llmc::cuda
