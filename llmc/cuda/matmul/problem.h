// A matrix product for the kernels in this folder: D (M, N) = A (M, K) B (K, N), then an epilogue. One template
// computes the three products of a linear layer, which differ in how their operands are stored:
//
//   pass      product                  A stored      B stored      kAByColumns, kBByRows
//   forward   out = inp weight^T       (M, K)        (N, K)        false, false
//   dgrad     dinp = dout weight       (M, K)        (K, N)        false, true
//   wgrad     dweight = dout^T inp     (K, M)        (K, N)        true,  true
//
// Tensor cores need both operands along K. If one is stored along M or N, ldmatrix transposes it on the way to the
// registers, so no transpose kernel is needed.
#pragma once
#include "llmc/cuda/host.h"
#include "llmc/cuda/matmul/work.h"
#include "llmc/cuda/vec.h"

namespace llmc::cuda {

template <class T>
struct Problem {
    const T *a, *b;
    int M, N, K;
    int64_t a_stride = 0, b_stride = 0;  // bf16: elements from one stored row to the next, set by multiply()
};

// An epilogue that can add its product to what D holds: parts of a product can be added one by one.
template <class Epilogue>
constexpr bool kAddsUp = requires(Epilogue e) { e.add_to_out(); };

// Around what a block adds to the result for its piece of a tile. All threads of the block call both. `turns`: a
// counter for each divided tile, all 0 before the launch and after it.
GPU void wait_for_turn(const uint32_t* turns, const Work& w, const Piece& piece) {
    if (piece.turn == 0) return;
    if (threadIdx.x == 0) wait_for_value(turns + (piece.tile - w.whole), uint32_t(piece.turn));
    __syncthreads();
}
GPU void end_turn(uint32_t* turns, const Work& w, const Piece& piece) {
    if (piece.turns == 1) return;
    __syncthreads();  // all threads have added theirs
    const int next = piece.turn + 1 < piece.turns ? piece.turn + 1 : 0;
    if (threadIdx.x == 0) store_release(turns + (piece.tile - w.whole), uint32_t(next));
}

}  // namespace llmc::cuda
