// Times each op on the device, for the GPU benchmark. Several sets of arguments are used in turn, so that no call finds
// its inputs in a cache.
#include <pybind11/stl.h>
#include <algorithm>
#include <memory>
#include <string>
#include <vector>
#include "llmc/bind/arrays.h"
#include "llmc/bind/benchmark_ops.h"
#include "llmc/bind/bind.h"
#include "llmc/bind/turn.h"

namespace llmc {
namespace {

using namespace python;

// Seconds per call: `repeats` values, each the mean over one call on every set.
std::vector<double> time_op(const std::string& op, const Sizes& sizes, const std::string& dtype, int sets,
                            int repeats) {
    const DType type = parse_dtype(dtype);
    std::vector<std::unique_ptr<Arguments>> memory;
    std::vector<BenchmarkOp> ops;
    for (int i = 0; i < std::max(sets, 1); ++i) {
        memory.push_back(std::make_unique<Arguments>(sizes, type, Arguments::Kind::filled, uint32_t(i + 1)));
        ops.push_back(benchmark_op(op, *memory.back()));
        if (ops.back().prepare) ops.back().prepare();
    }
    std::vector<double> seconds;
    device::Stopwatch watch;
    for (int i = 0; i <= repeats; ++i) {
        watch.start();
        for (const BenchmarkOp& o : ops) o.call();
        watch.stop();
        if (i > 0) seconds.push_back(watch.seconds() / double(ops.size()));  // the first round warms up
    }
    device::synchronize();
    return seconds;
}

}  // namespace

void bind_benchmarks(pybind11::module_& m) {
    m.def("time_op", &time_op,
          "Times an op on the device: seconds per call, `repeats` values, each the mean over `sets` sets of arguments.",
          py::arg("op"), py::arg("sizes"), py::arg("dtype") = "bf16", py::arg("sets") = 4, py::arg("repeats") = 10,
          py::call_guard<Turn>());
}

}  // namespace llmc
