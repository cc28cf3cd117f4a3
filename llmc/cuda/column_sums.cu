// Column sums of (N, C): bias gradients that are not a by-product of a matrix product. Bytes: s N C; bound: memory.
//
// A warp reads kRows rows at a time, all of their bytes before it adds the first; its lanes sum kVec columns each. Eight
// warps add up in shared memory.
#include "llmc/cuda/column_sums.h"

#include <algorithm>

#include "llmc/cuda/scratch.h"
#include "llmc/cuda/vec.h"
#include "llmc/ops/checks.h"

namespace llmc::cuda {
namespace {

constexpr int kWarps = kSumWarps, kThreads = kWarps * kWarp;
constexpr int kColumns = kSumColumns;  // of a block
constexpr int kRows = 4;

// Where a warp's sum of a column is. The lanes store 4 columns at a time: those of kWidth 8 the first half of their
// columns and then the second, so that both are 16 bytes apart from lane to lane, without bank conflicts.
constexpr int kHalf = kColumns / 2 + kWarp / 2;
template <int kWidth>
GPU int place(int column) {
    return kWidth == 8 ? column / 4 % 2 * kHalf + column / 8 * 4 + column % 4 : column;
}

struct SumColumnsShared {
    alignas(16) float of_warp[kWarps][2 * kHalf];
};

// parts (gridDim.y, C)
template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads) sum_columns_kernel(float* parts, const T* inp, int64_t N, int C) {
    launch_bounds<kThreads>();
    static_assert(kThreads == kColumns);
    constexpr int kPieces = kVec / kWidth;
    SumColumnsShared& s = shared<SumColumnsShared>();
    const int first = int(blockIdx.x) * kColumns, step = int(gridDim.y) * kWarps;
    const auto column = [&](int i) { return first + (i * kWarp + lane_id()) * kWidth; };
    float sum[kPieces][kWidth] = {}, v[kWidth];
    for (int64_t n = int64_t(blockIdx.y) * kWarps + warp_id(); n < N; n += kRows * step) {
        Packed<T, kWidth> x[kRows][kPieces];
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
            for (int i = 0; i < kPieces; ++i) {  // those that do not exist: again what does
                const int64_t row = n + r * step < N ? n + r * step : n;
                x[r][i].load(inp + row * C + smaller(column(i), C - kWidth));
            }
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
            for (int i = 0; i < kPieces; ++i)
                if (n + r * step < N) {
                    x[r][i].unpack(v);
#pragma unroll
                    for (int k = 0; k < kWidth; ++k) sum[i][k] += v[k];
                }
    }
    float* mine = s.of_warp[warp_id()];
#pragma unroll
    for (int i = 0; i < kPieces; ++i)
#pragma unroll
        for (int k = 0; k < kWidth; k += kWidth < 4 ? 1 : 4) {
            float* to = mine + place<kWidth>(column(i) - first + k);
            if constexpr (kWidth == 1)
                *to = sum[i][k];
            else
                store_shared16(
                    to, {bits_of(sum[i][k]), bits_of(sum[i][k + 1]), bits_of(sum[i][k + 2]), bits_of(sum[i][k + 3])});
        }
    __syncthreads();
    const int c = int(threadIdx.x);
    if (first + c >= C) return;
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += s.of_warp[w][place<kWidth>(c)];
    parts[int64_t(blockIdx.y) * C + first + c] = total;
}

// One warp for 32 columns would have too few loads in flight: kAddWarps of them divide the blocks' parts.
constexpr int kAddWarps = 32;
struct AddPartsShared {
    float of_warp[kAddWarps][kWarp];
};

__global__ void __launch_bounds__(kAddWarps* kWarp)
    add_parts_kernel(const float* parts, int blocks, ColumnSum first, ColumnSum second) {
    launch_bounds<kAddWarps * kWarp>();
    AddPartsShared& s = shared<AddPartsShared>();
    const int64_t columns = first.columns + second.columns, c = int64_t(blockIdx.x) * kWarp + lane_id();
    float sum = 0;
    if (c < columns)
#pragma unroll 8
        for (int b = warp_id(); b < blocks; b += kAddWarps) sum += parts[b * columns + c];
    s.of_warp[warp_id()][lane_id()] = sum;
    __syncthreads();
    if (warp_id() > 0 || c >= columns) return;
#pragma unroll
    for (int w = 1; w < kAddWarps; ++w) sum += s.of_warp[w][lane_id()];
    if (c < first.columns)
        first.out[c] += first.scale * sum;
    else
        second.out[c - first.columns] += second.scale * sum;
}

}  // namespace

void add_parts(const float* parts, int blocks, const ColumnSum& first, const ColumnSum& second) {
    launch({unsigned(ceil_div(first.columns + second.columns, kWarp)), kAddWarps * kWarp, sizeof(AddPartsShared)},
           add_parts_kernel, parts, blocks, first, second);
}

void add_column_sums(const Tensor& inp, const ColumnSum& sum) {
    const int64_t N = inp.rows(), C = inp.last(), across = ceil_div(C, kColumns);
    if (N == 0) return;
    const int64_t down = sum_blocks(N, C);
    const Workspace memory(column_sum_scratch(N, C));
    with_type("column sums", "inp", inp.dtype, [&]<class T>(T) {
        const auto kernel = rows_are_aligned(inp) ? sum_columns_kernel<kWidest<T>, T> : sum_columns_kernel<1, T>;
        launch({dim3(unsigned(across), unsigned(down)), kThreads, sizeof(SumColumnsShared)}, kernel,
               memory.part<float>(0), inp.as<T>(), N, int(C));
    });
    add_parts(memory.part<float>(0), int(down), sum);
}

}  // namespace llmc::cuda
