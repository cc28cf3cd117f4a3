// What a coordinate check asks of an activation. Formulas: llmc/ops/ops.h. Rows are summed one by one, in double, and added
// in order: the same bits for any number of threads.
#include <cmath>
#include <vector>
#include "llmc/cpu/parallel.h"
#include "llmc/ops/checks.h"
#include "llmc/ops/ops.h"

namespace llmc {

using namespace cpu;

namespace {

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

}  // namespace llmc
