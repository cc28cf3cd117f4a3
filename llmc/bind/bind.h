// The parts of the Python module, one function per file.
#pragma once
#include <pybind11/pybind11.h>

namespace llmc {

void bind_ops(pybind11::module_& module);         // bind_ops.cpp: every op of llmc/ops/ops.h, for tests
void bind_model(pybind11::module_& module);       // bind_model.cpp: GPT2, the rule table
void bind_text(pybind11::module_& module);        // bind_text.cpp: tokenizers, sampling
void bind_benchmarks(pybind11::module_& module);  // bind_benchmarks.cpp: times ops
void bind_cost(pybind11::module_& module);        // bind_cost.cpp: FLOPs and bytes of each op

}  // namespace llmc
