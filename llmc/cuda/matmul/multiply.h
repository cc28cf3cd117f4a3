// D = A B with an epilogue: chooses the plan, launches the kernel for the element type, and finishes split products.
#pragma once
#include "llmc/cuda/matmul/bf16.h"
#include "llmc/cuda/matmul/epilogue.h"
#include "llmc/cuda/matmul/fp32.h"
#include "llmc/cuda/matmul/plan.h"
#include "llmc/cuda/matmul/splits.h"

namespace llmc::cuda {

template <bool kAByColumns, bool kBByRows, int kWarpsN, bool kAligned, class Epilogue>
void launch_bf16(const Problem<bf16>& p, const Schedule& schedule, const Parts& parts, const ColumnSum& column_sum,
                 const Epilogue& epilogue) {
    constexpr int kThreads = kWarpsM * kWarpsN * kWarp;
    constexpr size_t kShared = sizeof(MatmulShared<kAByColumns, kBByRows, kWarpsN>);
    const auto kernel = matmul_bf16_kernel<kAByColumns, kBByRows, kWarpsN, kAligned, Epilogue>;
    const int resident = multiprocessors() * blocks_per_multiprocessor(kernel, kThreads, kShared);
    launch({unsigned(std::min(schedule.items(), resident)), kThreads, kShared}, kernel, p, schedule, parts, column_sum,
           epilogue);
}

// A (M, K), stored (K, M) if kAByColumns; B (K, N), stored (N, K) unless kBByRows. column_sum, for kAByColumns in bf16:
// += the sums of A over K, computed along the way.
template <bool kAByColumns, bool kBByRows, class T, class Epilogue>
void multiply(const Problem<T>& p, bool aligned, const Epilogue& epilogue, const ColumnSum& column_sum = {}) {
    if (p.M == 0 || p.N == 0) return;
    const Plan plan = plan_matmul<T>(p.M, p.N, p.K, aligned, multiprocessors());
    const Schedule& schedule = plan.schedule;
    const bool split = schedule.splits > 1;
    const size_t part_bytes = split ? size_t(schedule.splits) * size_t(p.M) * sizeof(float) : 0;
    const Workspace memory({part_bytes * size_t(p.N), part_bytes});
    const Parts parts = split ? Parts{memory.part<float>(0), memory.part<float>(1)} : Parts{};
    if constexpr (sizeof(T) == 4) {
        launch({unsigned(schedule.items()), kFp32Threads, sizeof(Fp32Shared)},
               matmul_fp32_kernel<kAByColumns, kBByRows, Epilogue>, p, schedule, parts, aligned, epilogue);
    } else {
        if (plan.wide)
            launch_bf16<kAByColumns, kBByRows, 4, true>(p, schedule, parts, column_sum, epilogue);
        else if (aligned)
            launch_bf16<kAByColumns, kBByRows, 2, true>(p, schedule, parts, column_sum, epilogue);
        else
            launch_bf16<kAByColumns, kBByRows, 2, false>(p, schedule, parts, column_sum, epilogue);
    }
    if (!split) return;
    const int64_t vectors = std::max(int64_t{p.M} * ceil_div(p.N, kVec), int64_t{p.M});
    launch({unsigned(ceil_div(vectors, kSplitThreads)), kSplitThreads}, finish_splits_kernel<Epilogue>, parts,
           column_sum, p.M, p.N, schedule.splits, epilogue);
}

}  // namespace llmc::cuda
