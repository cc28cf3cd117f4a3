// The loss of a model on a data set.
#pragma once
#include <functional>
#include <optional>
#include <vector>

#include "llmc/data/dataset.h"
#include "llmc/gpt2/gpt2.h"

namespace llmc {

struct Evaluation {
    double loss;                          // nats per token
    std::optional<double> bits_per_byte;  // none: the number of bytes is unknown
    int64_t targets;
};

// `go_on` is called before each segment with the number of those that are done; nothing is returned if it says no.
std::optional<Evaluation> evaluate(GPT2& model, const Dataset& data, const std::vector<Segment>& segments,
                                   const std::function<bool(int64_t done)>& go_on);

}  // namespace llmc
