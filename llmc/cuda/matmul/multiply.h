// D = A B with an epilogue: chooses the plan, launches the kernel for the element type, and finishes split products.
#pragma once
#include "llmc/cuda/matmul/bf16.h"
#include "llmc/cuda/matmul/epilogue.h"
#include "llmc/cuda/matmul/fp32.h"
#include "llmc/cuda/matmul/plan.h"
#include "llmc/cuda/matmul/splits.h"
#include "llmc/cuda/scratch.h"

namespace llmc::cuda {

template <bool kAByColumns, bool kBByRows, int kWarpsN, class Epilogue>
void launch_bf16(const Problem<bf16>& p, const Schedule& schedule, const Parts& parts, const ColumnSum& column_sum,
                 const Epilogue& epilogue) {
    constexpr int kThreads = kWarpsM * kWarpsN * kWarp;
    constexpr size_t kShared = sizeof(MatmulShared<kAByColumns, kBByRows, kWarpsN>);
    const auto kernel = matmul_bf16_kernel<kAByColumns, kBByRows, kWarpsN, Epilogue>;
    constexpr int kPlanned = (kWarpsN == 4 ? kWide : kNarrow).resident;  // the emulator does not know registers
    const int resident = multiprocessors() * std::min(kPlanned, blocks_per_multiprocessor(kernel, kThreads, kShared));
    launch({unsigned(std::min(schedule.items(), resident)), kThreads, kShared}, kernel, p, schedule, parts, column_sum,
           epilogue);
}

template <bool kAByColumns, bool kBByRows, class Epilogue>
void multiply_bf16(Problem<bf16> p, const Rows& a, const Rows& b, const Plan& plan, const Parts& parts,
                   const ColumnSum& column_sum, const Epilogue& epilogue) {
    p.a = a.data, p.a_stride = a.stride, p.b = b.data, p.b_stride = b.stride;
    if (plan.wide)
        launch_bf16<kAByColumns, kBByRows, 4>(p, plan.schedule, parts, column_sum, epilogue);
    else
        launch_bf16<kAByColumns, kBByRows, 2>(p, plan.schedule, parts, column_sum, epilogue);
}

// A (M, K), stored (K, M) if kAByColumns; B (K, N), stored (N, K) unless kBByRows. `aligned`: fp32, every row of the
// operands starts at a multiple of 16 bytes. column_sum, for kAByColumns in bf16: += the sums of A over K, as a
// by-product.
template <bool kAByColumns, bool kBByRows, class T, class Epilogue>
void multiply(const Problem<T>& p, bool aligned, const Epilogue& epilogue, const ColumnSum& column_sum = {}) {
    if (p.M == 0 || p.N == 0) return;
    const Plan plan = plan_matmul<T>(p.M, p.N, p.K, multiprocessors());
    const Schedule& schedule = plan.schedule;
    const bool split = schedule.splits > 1;
    const auto launch_all = [&](const Workspace& memory, auto&& launch_product) {
        const Parts parts = split ? Parts{memory.part<float>(0), memory.part<float>(1)} : Parts{};
        launch_product(parts);
        if (!split) return;
        const int64_t vectors = std::max(int64_t{p.M} * ceil_div(p.N, kVec), int64_t{p.M});
        launch({unsigned(ceil_div(vectors, kSplitThreads)), kSplitThreads}, finish_splits_kernel<Epilogue>, parts,
               column_sum, p.M, p.N, schedule.splits, epilogue);
    };
    if constexpr (sizeof(T) == 4) {
        launch_all(Workspace(product_scratch(schedule, p.M, p.N, 0, 0)), [&](const Parts& parts) {
            launch({unsigned(schedule.items()), kFp32Threads, sizeof(Fp32Shared)},
                   matmul_fp32_kernel<kAByColumns, kBByRows, Epilogue>, p, schedule, parts, aligned, epilogue);
        });
    } else {
        const Rows a = kAByColumns ? Rows{p.a, p.K, p.M} : Rows{p.a, p.M, p.K};
        const Rows b = kBByRows ? Rows{p.b, p.K, p.N} : Rows{p.b, p.N, p.K};
        const Workspace memory(product_scratch(schedule, p.M, p.N, padding_bytes(a), padding_bytes(b)));
        launch_all(memory, [&](const Parts& parts) {
            multiply_bf16<kAByColumns, kBByRows>(p, aligned_rows(a, memory.part<bf16>(2)),
                                                 aligned_rows(b, memory.part<bf16>(3)), plan, parts, column_sum,
                                                 epilogue);
        });
    }
}

}  // namespace llmc::cuda
