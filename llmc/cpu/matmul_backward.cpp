// The gradients of the linear layer. Formulas: llmc/ops/ops.h.
#include "llmc/cpu/kernels.h"
#include "llmc/cpu/matmul.h"
#include "llmc/cpu/scratch.h"
#include "llmc/ops/checks.h"

namespace llmc::cpu::LLMC_ISA {

namespace {

// dbias += scale * column sums of dout. Threads divide the columns, so the sums do not depend on the number of threads.
// Sums of 64 rows are added up, which keeps the rounding error of long columns small.
template <class T>
void add_column_sums(float* dbias, const T* dout, float scale, int64_t N, int64_t OC) {
    constexpr int64_t kVectors = 4, kColumns = kVectors * kLanes, kRows = 64;
    auto add = [=](int64_t first, auto count) {  // for kVectors vectors of columns, or for one
        constexpr int vectors = std::is_same_v<decltype(count), Whole> ? kVectors : 1;
        Vector total[vectors] = {};
        for (int64_t row = 0; row < N; row += kRows) {
            Vector sum[vectors] = {};
            for (int64_t n = row; n < std::min(row + kRows, N); ++n)
                for (int v = 0; v < vectors; ++v) sum[v] += load_as(dout + n * OC + first + v * kLanes, count);
            for (int v = 0; v < vectors; ++v) total[v] += sum[v];
        }
        for (int v = 0; v < vectors; ++v) {
            float* to = dbias + first + v * kLanes;
            store_as(to, load_as(to, count) + scale * total[v], count);
        }
    };
    parallel_for((OC + kLanes - 1) / kLanes, 1, [=](int64_t begin, int64_t end) {
        int64_t column = begin * kLanes;
        const int64_t last = std::min(end * kLanes, OC);
        for (; column + kColumns <= last; column += kColumns) add(column, Whole{});
        for (; column < last; column += kLanes) add(column, std::min<int64_t>(kLanes, last - column));
    });
}

// dinp of rows [row, row + rows). `weight` is in the type that products take.
template <class T>
void backward_input_block(const MatmulBackward& args, const void* weight, int64_t row, int64_t rows, int64_t C,
                          int64_t OC) {
    bool native = is_native(args.dout.dtype);
    DType type = native ? args.dout.dtype : DType::f32;
    T* dinp = static_cast<T*>(at_row(args.dinp, row));
    void* product = native ? static_cast<void*>(dinp) : scratch(Scratch::product, rows * C);
    multiply({.m = rows,
              .n = C,
              .k = OC,
              .a = source(args.dout, row, rows, Scratch::dout),
              .b = weight,
              .c = product,
              .in = type,
              .out = type,
              .alpha = args.dinp_scale});
    if (native && !args.pre_gelu) return;
    const T* pre_gelu = args.pre_gelu ? static_cast<const T*>(at_row(args.pre_gelu, row)) : nullptr;
    float scale = args.gelu_scale;
    auto finish = [=](const auto* linear, int64_t begin, int64_t end) {
        for_vectors(end - begin, [=](int64_t k, auto count) {
            const int64_t i = begin + k;
            Vector d = load_as(linear + i, count);
            if (pre_gelu) d *= gelu_derivative(scale * load_as(pre_gelu + i, count));
            store_as(dinp + i, d, count);
        });
    };
    parallel_for(rows * C, 8192, [=](int64_t begin, int64_t end) {
        if (native)
            finish(static_cast<const T*>(product), begin, end);
        else
            finish(static_cast<const float*>(product), begin, end);
    });
}

template <class T>
void backward_input(const MatmulBackward& args, int64_t N, int64_t C, int64_t OC) {
    const void* weight = source(args.weight, 0, OC, Scratch::weight);
    in_blocks(N, args.weight,
              [&](int64_t row, int64_t rows) { backward_input_block<T>(args, weight, row, rows, C, OC); });
}

// dweight (+)= scale * dout^T inp over `rows` rows. Each thread computes some rows of dweight over all blocks of the
// sum, so that the operands are in cache. A sum of few rows is divided among the threads by oneDNN.
void add_weight_gradient(const void* dout, const void* inp, float* dweight, DType type, float scale, bool overwrite,
                         int64_t rows, int64_t C, int64_t OC) {
    auto add = [=](int64_t begin, int64_t end, int64_t row, int64_t count) {
        multiply({.m = end - begin,
                  .n = C,
                  .k = count,
                  .a = static_cast<const char*>(dout) + (row * OC + begin) * int64_t(size_of(type)),
                  .b = static_cast<const char*>(inp) + row * C * int64_t(size_of(type)),
                  .c = dweight + begin * C,
                  .a_transposed = true,
                  .in = type,
                  .out = DType::f32,
                  .alpha = scale,
                  .accumulate = !overwrite || row > 0,
                  .a_stride = OC});
    };
    if (!weight_is_shared_out(rows, C, OC)) return add(0, OC, 0, rows);
    constexpr int64_t kUnit = 16;
    parallel_for((OC + kUnit - 1) / kUnit, 2, [=](int64_t first, int64_t last) {
        for (int64_t row = 0; row < rows; row += kBlockRows)
            add(first * kUnit, std::min(last * kUnit, OC), row, std::min(kBlockRows, rows - row));
    });
}

// Operands that have to be converted are processed in parts, which limits the memory for their copies.
void backward_weight(const MatmulBackward& args, int64_t N, int64_t C, int64_t OC) {
    bool native = is_native(args.dout.dtype);
    int64_t part = native ? N : std::max<int64_t>(4 * kBlockRows, (int64_t{1} << 25) / (OC + C));
    for (int64_t row = 0; row < N; row += part) {
        int64_t rows = std::min(part, N - row);
        add_weight_gradient(source(args.dout, row, rows, Scratch::dout), source(args.inp, row, rows, Scratch::inp),
                            args.dweight.as<float>(), native ? args.dout.dtype : DType::f32, args.dweight_scale,
                            args.overwrite_dweight && row == 0, rows, C, OC);
    }
}

}  // namespace

void matmul_backward(const MatmulBackward& args) {
    check(args);
    int64_t N = args.dout.rows(), OC = args.dout.last(), C = channels_of(args);
    if (N == 0 && args.dweight && args.overwrite_dweight)
        return device::fill_zero(args.dweight.data, args.dweight.bytes());
    with_type("matmul_backward", "dout", args.dout.dtype, [&]<class T>(T) {
        auto work = [&] {
            if (args.dinp) backward_input<T>(args, N, C, OC);
            if (args.dweight) backward_weight(args, N, C, OC);
            if (args.dbias) add_column_sums(args.dbias.as<float>(), args.dout.as<T>(), args.dbias_scale, N, OC);
        };
        // The three are independent: none reads what another writes.
        const bool alone = is_native(args.dout.dtype) && (!args.dinp || rows_are_shared_out(N, args.weight)) &&
                           (!args.dweight || weight_is_shared_out(N, C, OC));
        if (alone)
            parallel_region(work);
        else
            work();
    });
}

}  // namespace llmc::cpu::LLMC_ISA
