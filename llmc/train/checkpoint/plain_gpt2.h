// Whether weights are a plain GPT-2, which other programs can use as they are, and the config.json that says so.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "llmc/gpt2/parameters.h"

namespace llmc {

// The factors of the forward pass that stay outside of the weights, with GPT-2's: "scale attention 0.125 (GPT-2: 0.25),
// scale output 0.5 (GPT-2: 1)". Empty: the weights are a plain GPT-2. rules: the rule table (doc/formats.md)
std::string factors_outside(const nlohmann::ordered_json& rules, int head_dim);

// transformers' config.json of a plain GPT-2.
std::string config_json(const ModelShape& shape, DType dtype, const std::string& tokenizer);

}  // namespace llmc
