// The linear layer, forward and backward. Formulas: llmc/ops/ops.h.
//
// Products are computed in blocks of rows, one thread each: what a block reads and writes stays in that thread's cache,
// also for the pass over the result (gelu, residual, conversion), and threads meet once, at the end. bf16 on a
// processor without bf16 products is converted block by block.
#include "llmc/cpu/few_rows.h"
#include "llmc/cpu/onednn.h"
#include "llmc/cpu/parallel.h"
#include "llmc/cpu/vector.h"
#include "llmc/ops/checks.h"
#include "llmc/ops/ops.h"

namespace llmc {

using namespace cpu;

namespace {

constexpr int64_t kLeastRows = 32, kCacheBytes = 512 << 10;
constexpr int64_t kBlockRows = 256;  // few enough to stay in cache, enough to pay for repacking the other operand

// Whether oneDNN takes elements of this type as they are.
bool is_native(DType dtype) { return dtype == DType::f32 || has_fast_bf16(); }

void* at_row(const Tensor& t, int64_t row) { return t.as<char>() + row * t.last() * int64_t(size_of(t.dtype)); }

// `rows` rows as a product takes them: themselves, or converted to fp32 in scratch memory.
const void* source(const Tensor& t, int64_t row, int64_t rows, Scratch use) {
    if (is_native(t.dtype)) return at_row(t, row);
    int64_t n = rows * t.last();
    float* out = scratch(use, n);
    const bf16* src = static_cast<const bf16*>(at_row(t, row));
    parallel_for(n, 16384, [=](int64_t begin, int64_t end) { to_floats(out + begin, src + begin, end - begin); });
    return out;
}

// Whether each thread takes rows of its own: where there are enough of them, or where every thread has room for the whole
// weight in its cache. Otherwise threads work together on one product, as the library divides it.
bool rows_are_shared_out(int64_t N, const Tensor& weight) {
    const int64_t threads = device::threads();
    return N >= 2 * kBlockRows * threads || (N >= kLeastRows * threads && int64_t(weight.bytes()) <= kCacheBytes);
}
// The same of dweight's rows, for a sum over `rows` rows.
bool weight_is_shared_out(int64_t rows, int64_t C, int64_t OC) {
    return rows >= 4 * kBlockRows || OC * C * 4 <= kCacheBytes * device::threads();
}

// Calls body(row, rows) on blocks of rows, one thread each, or once.
template <class Body>
void in_blocks(int64_t N, const Tensor& weight, Body&& body) {
    if (!rows_are_shared_out(N, weight)) return body(int64_t{0}, N);
    const int64_t threads = device::threads();
    int64_t block = N >= 2 * kBlockRows * threads ? kBlockRows : ((N + threads - 1) / threads + 15) / 16 * 16;
    parallel_tasks((N + block - 1) / block, true, [&](int64_t i) { body(i * block, std::min(block, N - i * block)); });
}

// fp32 bias_scale * bias, or nullptr.
const float* scaled_bias(const Tensor& bias, float scale) {
    if (!bias) return nullptr;
    int64_t n = bias.numel();
    if (bias.dtype == DType::f32 && scale == 1) return bias.as<float>();
    float* out = scratch(Scratch::bias, n);
    with_type("matmul_forward", "bias", bias.dtype, [&]<class T>(T) {
        for (int64_t i = 0; i < n; ++i) out[i] = scale * to_float(bias.as<T>()[i]);
    });
    return out;
}

// The passes over `linear`, elements [begin, end): from memory of type L (the product's result) to tensors of type T.
template <class T, class L>
void finish_forward(const MatmulForward& args, const L* linear, int64_t offset, int64_t begin, int64_t end) {
    T* out = args.out.as<T>() + offset + begin;
    linear += begin;
    if (args.pre_gelu) {
        T* pre_gelu = args.pre_gelu.as<T>() + offset + begin;
        const float scale = args.gelu_scale, inverse = 1 / scale;
        const bool in_place = static_cast<const void*>(linear) == pre_gelu;
        for_vectors(end - begin, [=](int64_t i, auto count) {
            if (!in_place) store_as(pre_gelu + i, load_as(linear + i, count), count);
            store_as(out + i, inverse * gelu(scale * load_as(pre_gelu + i, count)), count);  // of the rounded number
        });
    } else if (args.residual) {
        const T* residual = args.residual.as<T>() + offset + begin;
        const float skip = args.skip_scale;
        for_vectors(end - begin, [=](int64_t i, auto count) {
            store_as(out + i, skip * load_as(residual + i, count) + load_as(linear + i, count), count);
        });
    } else {
        from_floats(out, reinterpret_cast<const float*>(linear), end - begin);
    }
}

// Rows [row, row + rows): product, then the pass over it. `weight` and `bias` are what the product takes.
template <class T>
void forward_block(const MatmulForward& args, const void* weight, const float* bias, float scale, int64_t row,
                   int64_t rows, int64_t C, int64_t OC) {
    bool native = is_native(args.inp.dtype);
    // A product of native type lies where it is wanted, unless a residual is to be added; a gelu reads it from there.
    bool in_place = native && !args.residual;
    void* linear = !in_place ? scratch(Scratch::product, rows * OC)
                             : at_row(args.pre_gelu ? args.pre_gelu : args.out, row);
    multiply({.m = rows,
              .n = OC,
              .k = C,
              .a = source(args.inp, row, rows, Scratch::inp),
              .b = weight,
              .c = linear,
              .b_transposed = true,
              .in = native ? args.inp.dtype : DType::f32,
              .out = in_place ? args.out.dtype : DType::f32,
              .alpha = scale,
              .bias = bias});
    if (in_place && !args.pre_gelu) return;
    parallel_for(rows * OC, 8192, [&](int64_t begin, int64_t end) {
        if (in_place)
            finish_forward<T>(args, static_cast<const T*>(linear), row * OC, begin, end);
        else
            finish_forward<T>(args, static_cast<const float*>(linear), row * OC, begin, end);
    });
}

}  // namespace

void matmul_forward(const MatmulForward& args) {
    check(args);
    int64_t N = args.inp.rows(), C = args.inp.last(), OC = args.weight.rows();
    if (N <= kFewRows) {
        float* linear = scratch(Scratch::product, N * OC);
        return with_type("matmul_forward", "inp", args.inp.dtype, [&]<class T>(T) {
            multiply_few_rows(linear, args.inp.as<T>(), args.weight.as<T>(), args.bias.as<T>(), args.scale,
                              args.bias_scale, N, C, OC);
            finish_forward<T>(args, linear, 0, 0, N * OC);
        });
    }
    // The product multiplies its bias by its scale: divide here. A scale of 0 becomes one that leaves nothing of the
    // product either.
    float scale = args.scale == 0 ? 1e-30f : args.scale;
    const float* bias = scaled_bias(args.bias, args.bias_scale / scale);
    const void* weight = source(args.weight, 0, OC, Scratch::weight);
    with_type("matmul_forward", "inp", args.inp.dtype, [&]<class T>(T) {
        in_blocks(N, args.weight,
                  [&](int64_t row, int64_t rows) { forward_block<T>(args, weight, bias, scale, row, rows, C, OC); });
    });
}

namespace {

// dbias += scale * column sums of dout. Threads share the columns, so the sums do not depend on their number; sums of
// 64 rows are added up, which keeps the rounding error of long columns small.
template <class T>
void add_column_sums(float* dbias, const T* dout, float scale, int64_t N, int64_t OC) {
    constexpr int64_t kVectors = 4, kColumns = kVectors * kLanes, kRows = 64;
    auto add = [=](int64_t first, auto count) {  // to kVectors vectors of columns, or to one
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

// dinp of rows [row, row + rows). `weight` is what the product takes.
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

// dweight (+)= scale * dout^T inp over `rows` rows. Each thread takes some of dweight's rows through all blocks of the
// sum, so that the operands are in cache; a sum of few rows is left to the library's own division of work.
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

// Operands that have to be converted are taken in parts where they would take too much memory.
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
        // None of the three reads what another writes.
        const bool alone = is_native(args.dout.dtype) && (!args.dinp || rows_are_shared_out(N, args.weight)) &&
                           (!args.dweight || weight_is_shared_out(N, C, OC));
        if (alone)
            parallel_region(work);
        else
            work();
    });
}

}  // namespace llmc
