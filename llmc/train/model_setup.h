// From options to a model: shape, rules, precision. For training runs, sampling and the Python module alike.
#pragma once
#include <memory>

#include "llmc/train/checkpoint/checkpoint.h"
#include "llmc/train/options/settings.h"

namespace llmc {

// The shape of --init or --resume is the model's: writes it into `config` and returns it. Data error where an option that
// was given, or that a preset sets, says otherwise.
ModelShape take_shape(Config& config, const Given& given, const ModelFile& file);

// The shape of a new model: resolves heads, vocabulary (0: `data_vocab_size`, or GPT-2's where that is 0 too) and tying in
// `config`.
ModelShape new_shape(Config& config, int data_vocab_size);

Parametrization make_rules(const Config& config, const ModelShape& shape);
GPT2Options gpt2_options(const Config& config);

}  // namespace llmc
