// D = A B with an epilogue: chooses the plan and launches the kernel for the element type.
#pragma once
#include "llmc/cuda/matmul/bf16.h"
#include "llmc/cuda/matmul/epilogue.h"
#include "llmc/cuda/matmul/fp32.h"
#include "llmc/cuda/matmul/plan.h"
#include "llmc/cuda/matmul/wgmma.h"
#include "llmc/cuda/scratch.h"

namespace llmc::cuda {

template <bool kAByColumns, bool kBByRows, class Epilogue>
void multiply_fp32_matrices(const Problem<float>& p, bool aligned, const Epilogue& epilogue) {
    const Plan plan = plan_with(kFp32Tile, p.M, p.N, p.K, multiprocessors(), kAddsUp<Epilogue>);
    launch({unsigned(plan.work.blocks), kFp32Threads, sizeof(Fp32Shared)},
           matmul_fp32_kernel<kAByColumns, kBByRows, Epilogue>, p, plan.work, turns(), aligned, epilogue);
}

// The kernel for one size of tile.
template <bool kAByColumns, bool kBByRows, int kBlockM, int kBlockN, class Epilogue>
struct Bf16Kernel {
    using Block = BlockTile<kBlockM, kBlockN>;
    static constexpr size_t kShared = sizeof(MatmulShared<kAByColumns, kBByRows, kBlockM, kBlockN>);
    static constexpr auto kernel = matmul_bf16_kernel<kAByColumns, kBByRows, kBlockM, kBlockN, Epilogue>;

    static Plan plan(const Problem<bf16>& p) {
        const TileCost cost = fitting(Block::kCost, blocks_per_multiprocessor(kernel, Block::kThreads, kShared));
        return plan_with(with_epilogue(cost, kInstructionsOf<Epilogue, !kBByRows>, Epilogue::kReads), p.M, p.N, p.K,
                         multiprocessors(), kAddsUp<Epilogue>);
    }
    static void run(const Problem<bf16>& p, const Plan& plan, const ColumnSum& column_sum, const Epilogue& epilogue) {
        launch({unsigned(plan.work.blocks), Block::kThreads, kShared}, kernel, p, plan.work, turns(), column_sum,
               epilogue);
    }
};

// Hopper's kernel, whose work is divided among clusters.
template <bool kAByColumns, bool kBByRows, class Epilogue>
struct WgmmaKernel {
    static Plan plan(const Problem<bf16>& p) {
        const TileCost cost = with_turns(kWarpgroups, kInstructionsOf<Epilogue, false>, Epilogue::kReads);
        return plan_with(cost, p.M, p.N, p.K, std::max(1, multiprocessors() / kCluster), kAddsUp<Epilogue>);
    }
    static void run(const Problem<bf16>& p, const Plan& plan, const ColumnSum& column_sum, const Epilogue& epilogue) {
        launch({unsigned(plan.work.blocks * kCluster), kHopperThreads, sizeof(HopperShared), kCluster},
               matmul_wgmma_kernel<kAByColumns, kBByRows, Epilogue>,
               operand_map<kAByColumns>(p.a, p.M, p.K, p.a_stride), operand_map<kBByRows>(p.b, p.N, p.K, p.b_stride),
               HopperProblem{p.M, p.N, plan.work, turns(), column_sum}, epilogue);
    }
};

// A (M, K), stored (K, M) if kAByColumns; B (K, N), stored (N, K) unless kBByRows. `aligned`: fp32, every row of the
// operands starts at a multiple of 16 bytes. column_sum, for kAByColumns in bf16: += the sums of A over K, as a
// by-product.
template <bool kAByColumns, bool kBByRows, class T, class Epilogue>
void multiply(Problem<T> p, bool aligned, const Epilogue& epilogue, const ColumnSum& column_sum = {}) {
    if (p.M == 0 || p.N == 0) return;
    if constexpr (sizeof(T) == 4) {
        multiply_fp32_matrices<kAByColumns, kBByRows>(p, aligned, epilogue);
    } else {
        using Wide = Bf16Kernel<kAByColumns, kBByRows, 128, 256, Epilogue>;
        using Narrow = Bf16Kernel<kAByColumns, kBByRows, 128, 128, Epilogue>;
        const Rows a = kAByColumns ? Rows{p.a, p.K, p.M} : Rows{p.a, p.M, p.K};
        const Rows b = kBByRows ? Rows{p.b, p.K, p.N} : Rows{p.b, p.N, p.K};
        const Workspace memory(padding_scratch(a, b));
        const Rows aligned_a = aligned_rows(a, memory.part<bf16>(0)), aligned_b = aligned_rows(b, memory.part<bf16>(1));
        p.a = aligned_a.data, p.a_stride = aligned_a.stride, p.b = aligned_b.data, p.b_stride = aligned_b.stride;
        using Hopper = WgmmaKernel<kAByColumns, kBByRows, Epilogue>;
        const Plan wide = Wide::plan(p), narrow = Narrow::plan(p), hopper = Hopper::plan(p);
        const bool may_be_hopper = p.K > 0 && epilogue.tensors.aligned && has_wgmma();
        const double least = std::min({wide.clocks, narrow.clocks, may_be_hopper ? hopper.clocks : wide.clocks});
        if (may_be_hopper && wgmma_is_chosen()) return Hopper::run(p, hopper, column_sum, epilogue);
        if constexpr (!kAddsUp<Epilogue>) {  // else all multiprocessors have parts of large tiles
            using Small = Bf16Kernel<kAByColumns, kBByRows, 64, 64, Epilogue>;
            const Plan small = Small::plan(p);
            if (small.clocks < least) return Small::run(p, small, column_sum, epilogue);
        }
        if (may_be_hopper && hopper.clocks == least) return Hopper::run(p, hopper, column_sum, epilogue);
        if (wide.clocks <= narrow.clocks)
            Wide::run(p, wide, column_sum, epilogue);
        else
            Narrow::run(p, narrow, column_sum, epilogue);
    }
}

}  // namespace llmc::cuda
