// The loss of a model on a data set.
#pragma once
#include <optional>
#include <vector>

#include "llmc/data/dataset.h"
#include "llmc/gpt2/gpt2.h"
#include "llmc/train/shared_work.h"

namespace llmc {

struct Evaluation {
    double loss;                          // nats per token
    std::optional<double> bits_per_byte;  // none: the number of bytes is unknown
    int64_t targets;
};

// Nothing is returned if work.go_on says no. The same bits for any number of ranks.
std::optional<Evaluation> evaluate(GPT2& model, const Dataset& data, const std::vector<Segment>& segments,
                                   const SharedWork& work);

}  // namespace llmc
