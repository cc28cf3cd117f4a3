// One op on arguments of given sizes, for time_op (bind_benchmarks.cpp) and cost (bind_cost.cpp).
#pragma once
#include <functional>
#include <initializer_list>
#include <map>
#include <random>
#include <string>
#include <vector>
#include "llmc/ops/cost.h"
#include "llmc/ops/device.h"

namespace llmc {

using Sizes = std::map<std::string, int64_t>;

// The tensors of an op: filled with random numbers on the device, or only shapes.
class Arguments {
public:
    enum class Kind { filled, shapes };
    Arguments(const Sizes& sizes, DType dtype, Kind kind, uint32_t seed = 1)
        : sizes_(sizes), dtype_(dtype), kind_(kind), random_(seed) {}

    int64_t operator[](const char* name) const;  // a size; a usage error if it is missing or less than 1
    DType dtype() const { return dtype_; }
    Tensor empty(std::initializer_list<int64_t> dims, DType dtype);
    Tensor floats(std::initializer_list<int64_t> dims) { return filled(empty(dims, dtype_)); }
    Tensor fp32(std::initializer_list<int64_t> dims) { return filled(empty(dims, DType::f32)); }
    Tensor integers(std::initializer_list<int64_t> dims, int64_t high);  // in [0, high)

private:
    Tensor filled(Tensor t);

    Sizes sizes_;
    DType dtype_;
    Kind kind_;
    std::mt19937 random_;
    std::vector<device::Buffer> buffers_;
};

struct BenchmarkOp {
    std::function<void()> call;
    Cost cost;
    std::function<void()> prepare;  // to be called once before `call`; may be empty
};

// The op of that name on `arguments`, whose memory it uses. The usage error for an unknown name lists all names.
BenchmarkOp benchmark_op(const std::string& name, Arguments& arguments);

}  // namespace llmc
