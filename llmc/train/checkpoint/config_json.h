// config.json, in which transformers keeps what a model's tensors do not say.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "llmc/gpt2/parameters.h"

namespace llmc {

// What a config.json beside weights says of a GPT-2.
struct PublishedConfig {
    std::string path;
    std::optional<int> heads;
    std::optional<int> vocab_size;  // at most the rows of wte
    std::optional<bool> tied;       // absent: not said
    bool scale_attention = true;    // false: logits q.k, without 1/sqrt(head size)
};

// The config.json of the folder; none: there is no such file. Data error naming file, key and value for a model that
// this program does not have (another architecture or activation, for example), or a value that disagrees with the
// tensors' `shape` (whose heads and tying do not count): a vocabulary may be smaller than the rows of wte, which are
// then padded.
std::optional<PublishedConfig> read_config_json(const std::string& folder, const ModelShape& shape);

}  // namespace llmc
