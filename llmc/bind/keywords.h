// Keyword arguments as options: the Python side of the table of options.
#pragma once
#include <pybind11/pybind11.h>

#include "llmc/train/model_setup.h"

namespace llmc::python {

// A Config from keyword arguments, checked like the command line. Usage error for a name that is not an option, or an
// option that a model does not take (out, steps, ...).
Config config_of(const pybind11::kwargs& keywords, Given& given);

// The parts of a model: config, shape, and the weights of init= (null without).
struct ModelParts {
    Config config;
    ModelShape shape;
    std::unique_ptr<ModelFile> weights;
};
ModelParts model_parts(const pybind11::kwargs& keywords);

pybind11::object to_python(const nlohmann::ordered_json& json);

}  // namespace llmc::python
