// The cost model of llmc/ops/cost.h, for the benchmarks' floors and the documents.
#include <pybind11/stl.h>
#include <string>
#include "llmc/bind/arrays.h"
#include "llmc/bind/benchmark_ops.h"
#include "llmc/bind/bind.h"

namespace llmc {

using namespace python;

void bind_cost(py::module_& m) {
    m.def(
        "cost",
        [](const std::string& op, const Sizes& sizes, const std::string& dtype) {
            Arguments arguments(sizes, parse_dtype(dtype), Arguments::Kind::shapes);
            const Cost c = benchmark_op(op, arguments).cost;
            return py::dict(py::arg("flops") = c.flops, py::arg("bytes") = c.bytes);
        },
        "The minimum work of an op of time_op at these sizes: {flops, bytes}, by llmc/ops/cost.h: FLOPs of matrix "
        "products (a multiply-add is 2), bytes of every input read once and every output written once. Nothing is "
        "allocated.",
        py::arg("op"), py::arg("sizes"), py::arg("dtype") = "bf16");
    m.def("flops_per_token", &flops_per_token,
          "FLOPs of a training step per token: 6 (12 L C^2 + V C) + 12 L C T, attention counted as if it were not "
          "causal (PaLM, appendix B).",
          py::arg("depth"), py::arg("width"), py::arg("seq_len"), py::arg("vocab_size"));
    m.def("executed_flops_per_token", &executed_flops_per_token,
          "What the ops of such a step cost together: causal attention, the head with its padding rows, and with "
          "recompute_blocks the products that the backward pass computes again. Percent of peak uses it.",
          py::arg("depth"), py::arg("width"), py::arg("seq_len"), py::arg("padded_vocab"),
          py::arg("recompute_blocks") = false);
}

}  // namespace llmc
