// The elements of many tensors in blocks of a fixed size, which are divided among the threads. Sums are computed for
// each block, in double, and added in order, so that no result depends on the number of threads.
#pragma once
#include <algorithm>
#include <vector>
#include "llmc/cpu/parallel.h"

namespace llmc::cpu {

constexpr int64_t kBlock = 4096;  // a multiple of 4: a draw of random numbers serves four elements

struct Block {
    size_t tensor;
    int64_t begin, end;  // in the tensor
    int64_t start;       // elements of all blocks before this one
};

// All elements of all tensors in blocks.
struct Blocks {
    std::vector<Block> blocks;
    int64_t elements = 0;

    template <class Tensors, class Count>
    Blocks(const Tensors& tensors, Count&& count) {
        for (size_t i = 0; i < tensors.size(); ++i) {
            for (int64_t begin = 0, n = count(tensors[i]); begin < n; begin += kBlock) {
                const int64_t end = std::min(begin + kBlock, n);
                blocks.push_back({i, begin, end, elements});
                elements += end - begin;
            }
        }
    }

    // Calls body(i, blocks[i]); each thread gets about as many elements as the others.
    template <class Body>
    void parallel(Body&& body) const {
        parallel_for(elements, 2 * kBlock, [&](int64_t begin, int64_t end) {
            for (auto b = std::ranges::lower_bound(blocks, begin, {}, &Block::start);
                 b != blocks.end() && b->start < end; ++b)
                body(size_t(b - blocks.begin()), *b);
        });
    }
};

}  // namespace llmc::cpu
