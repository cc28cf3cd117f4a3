// From options to a model: shape, rules, precision. Used by training runs, sampling and the Python module.
#pragma once
#include <memory>

#include "llmc/train/checkpoint/checkpoint.h"
#include "llmc/train/options/settings.h"

namespace llmc {

// The model takes the shape of --init or --resume: writes it into `config` and returns it. Data error if an option that
// was given, or that a preset sets, is different.
ModelShape take_shape(Config& config, const Given& given, const ModelFile& file);

// The options of the parametrization that were not given become those of the file, unless another --parametrization was
// given. Returns what to say of it; empty: nothing changed.
std::string take_parametrization(Config& config, const Given& given, const ModelFile& file);

// What to say of that which is neither in the file nor given: the number of heads, a lone head that is the embedding.
std::vector<std::string> assumptions(const ModelFile& file, const Given& given);

// The shape of a new model: resolves heads, vocabulary (0: `data_vocab_size`, or GPT-2's if that is 0 too) and tying in
// `config`.
ModelShape new_shape(Config& config, int data_vocab_size);

Parametrization make_rules(const Config& config, const ModelShape& shape);
GPT2Options gpt2_options(const Config& config);

}  // namespace llmc
