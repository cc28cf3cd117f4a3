// Sums over one tensor or many, in double: accumulate_sum, global_norm, statistics. Formulas: llmc/ops/ops.h. Blocks
// and rows are summed one by one and added in order: the same bits for any number of threads.
#include <cmath>
#include <vector>
#include "llmc/cpu/blocks.h"
#include "llmc/cpu/kernels.h"
#include "llmc/cpu/parallel.h"
#include "llmc/ops/checks.h"

namespace llmc::cpu::LLMC_ISA {

namespace {

template <class Term>
double sum_of(const float* x, int64_t n, Term&& term) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += term(double(x[i]));
    return sum;
}

// sum of term(x) over all elements of all tensors.
template <class Term>
double sum_over(std::span<const Tensor> tensors, Term&& term) {
    const Blocks all(tensors, [](const Tensor& t) { return t.numel(); });
    std::vector<double> partial(all.blocks.size());
    all.parallel([&](size_t i, const Block& b) {
        partial[i] = sum_of(tensors[b.tensor].as<float>() + b.begin, b.end - b.begin, term);
    });
    double total = 0;
    for (double p : partial) total += p;
    return total;
}

struct Sums {
    double absolute = 0, sum = 0, squares = 0, largest = 0;
    void operator+=(const Sums& other) {
        absolute += other.absolute;
        sum += other.sum;
        squares += other.squares;
        largest = std::isnan(other.largest) || other.largest > largest ? other.largest : largest;
    }
};

template <class T>
Sums sums_of_row(const T* inp, const T* minus, int64_t columns) {
    Sums s;
    for (int64_t c = 0; c < columns; ++c) {
        const double x = double(to_float(inp[c])) - (minus ? double(to_float(minus[c])) : 0);
        s += Sums{std::fabs(x), x, x * x, std::fabs(x)};
    }
    return s;
}

}  // namespace

void accumulate_sum(const Sum& args) {
    check(args);
    double total = sum_over(std::span(&args.inp, 1), [](double x) { return x; });
    *args.out.as<float>() += float(args.scale * total);
}

void global_norm(Tensor out, std::span<const Tensor> tensors) {
    check_global_norm(out, tensors);
    *out.as<float>() = float(std::sqrt(sum_over(tensors, [](double x) { return x * x; })));
}

void statistics(const Statistics& args) {
    check(args);
    const int64_t N = args.inp.rows(), C = args.inp.last(), first = args.first_column,
                  columns = args.columns ? args.columns : C - first;
    std::vector<Sums> rows(static_cast<size_t>(N));
    with_type("statistics", "inp", args.inp.dtype, [&]<class T>(T) {
        parallel_for(N, row_grain(columns), [&](int64_t begin, int64_t end) {
            for (int64_t n = begin; n < end; ++n)
                rows[size_t(n)] = sums_of_row(args.inp.as<T>() + n * C + first,
                                              args.minus ? args.minus.as<T>() + n * C + first : nullptr, columns);
        });
    });
    Sums total;
    for (const Sums& row : rows) total += row;
    const double count = double(N) * double(columns);
    float* out = args.out.as<float>();
    out[0] = float(total.absolute / count);
    out[1] = float(total.sum / count);
    out[2] = float(std::sqrt(total.squares / count));
    out[3] = float(total.largest);
}

}  // namespace llmc::cpu::LLMC_ISA
