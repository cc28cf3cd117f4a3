// Column sums of (N, C): bias gradients that are not a by-product of a matrix product. Bytes: s N C; bound: memory.
//
// A lane sums kVec columns and a warp reads a row at a time, as in layernorm.cu; eight warps add up in shared memory.
#include "llmc/cuda/column_sums.h"

#include <algorithm>

#include "llmc/cuda/scratch.h"
#include "llmc/cuda/vec.h"
#include "llmc/ops/checks.h"

namespace llmc::cuda {
namespace {

constexpr int kWarps = kSumWarps, kThreads = kWarps * kWarp;
constexpr int kColumns = kSumColumns;  // of a block

struct SumColumnsShared {
    float of_warp[kWarps][kColumns];
};

// parts (gridDim.y, C)
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_columns_kernel(float* parts, const T* inp, int64_t N, int C, bool aligned) {
    launch_bounds<kThreads>();
    static_assert(kThreads == kColumns);
    SumColumnsShared& s = shared<SumColumnsShared>();
    const int first = int(blockIdx.x) * kColumns, c = first + lane_id() * kVec;
    float sum[kVec] = {}, x[kVec];
    for (int64_t n = int64_t(blockIdx.y) * kWarps + warp_id(); n < N && c < C; n += int64_t(gridDim.y) * kWarps) {
        load_upto(x, inp + n * C + c, C - c, aligned);
#pragma unroll
        for (int k = 0; k < kVec; ++k) sum[k] += x[k];
    }
    store_shared(&s.of_warp[warp_id()][lane_id() * kVec], sum);
    __syncthreads();
    const int column = int(threadIdx.x);
    if (first + column >= C) return;
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += s.of_warp[w][column];
    parts[int64_t(blockIdx.y) * C + first + column] = total;
}

// One warp for 32 columns would have too few loads in flight: kWarps of them divide the blocks' parts.
struct AddPartsShared {
    float of_warp[kWarps][kWarp];
};

__global__ void __launch_bounds__(kThreads)
    add_parts_kernel(const float* parts, int blocks, ColumnSum first, ColumnSum second) {
    launch_bounds<kThreads>();
    AddPartsShared& s = shared<AddPartsShared>();
    const int64_t columns = first.columns + second.columns, c = int64_t(blockIdx.x) * kWarp + lane_id();
    float sum = 0;
    if (c < columns)
        for (int b = warp_id(); b < blocks; b += kWarps) sum += parts[b * columns + c];
    s.of_warp[warp_id()][lane_id()] = sum;
    __syncthreads();
    if (warp_id() > 0 || c >= columns) return;
    for (int w = 1; w < kWarps; ++w) sum += s.of_warp[w][lane_id()];
    if (c < first.columns)
        first.out[c] += first.scale * sum;
    else
        second.out[c - first.columns] += second.scale * sum;
}

}  // namespace

void add_parts(const float* parts, int blocks, const ColumnSum& first, const ColumnSum& second) {
    launch({unsigned(ceil_div(first.columns + second.columns, kWarp)), kThreads, sizeof(AddPartsShared)},
           add_parts_kernel, parts, blocks, first, second);
}

void add_column_sums(const Tensor& inp, const ColumnSum& sum) {
    const int64_t N = inp.rows(), C = inp.last(), across = ceil_div(C, kColumns);
    if (N == 0) return;
    const int64_t down = sum_blocks(N, C);
    const Workspace memory(column_sum_scratch(N, C));
    with_type("column sums", "inp", inp.dtype, [&]<class T>(T) {
        launch({dim3(unsigned(across), unsigned(down)), kThreads, sizeof(SumColumnsShared)}, sum_columns_kernel<T>,
               memory.part<float>(0), inp.as<T>(), N, int(C), rows_are_aligned(inp));
    });
    add_parts(memory.part<float>(0), int(down), sum);
}

}  // namespace llmc::cuda
