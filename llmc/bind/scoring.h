// Logits and loss of rows of tokens, of any number, in batches of the size that a model was made for. No Python objects.
#pragma once
#include <cstdint>
#include <vector>

#include "llmc/gpt2/gpt2.h"

namespace llmc::python {

struct TokenRows {
    int64_t count = 0, length = 0;
    std::vector<int32_t> tokens;  // (count, length), every one below vocab_size
};

// out: (count, length, V), logits as used by the loss. length: at most the model's seq_len.
void logits(GPT2& model, const TokenRows& rows, int batch_size, float* out);

// The mean over all tokens but the first of each row, nats per token. A row that is longer than seq_len is read in
// windows, as evaluation reads a shard: the context of a token begins at its window.
double mean_loss(GPT2& model, const TokenRows& rows, int batch_size, int seq_len);

}  // namespace llmc::python
