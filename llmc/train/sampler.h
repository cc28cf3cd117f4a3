// Text from a model: one token at a time from softmax(logits / temperature), restricted to the top_k likeliest.
#pragma once
#include <functional>
#include <string>
#include <vector>
#include "llmc/core/error.h"
#include "llmc/data/tokenizer.h"
#include "llmc/gpt2/gpt2.h"

namespace llmc {

// Logits that are not finite have no likeliest token.
struct NotFinite : Error {
    NotFinite() : Error(kExitDiverged, "the model's logits are not finite") {}
};

struct SampleOptions {
    std::string prompt;        // empty: the start of a document
    double temperature = 0.8;  // 0: the likeliest token
    int top_k = 0;             // 0: all
    int count = 256;           // tokens to generate; stops early at the end of the document
    uint64_t seed = 42;
    uint32_t stream = 0;  // the training step, so that the samples of a run differ
    // Called before each token with the number of those generated; false ends the text. Empty: never.
    std::function<bool(int64_t)> go_on = {};
    bool cache = true;  // keep keys and values of earlier positions; false computes them again for every token
};

// The tokens after `tokens`: at most options.count, stopping before `end` (-1: never). options.prompt is not used.
std::vector<int32_t> generate(GPT2& model, std::vector<int32_t> tokens, int seq_len, int32_t end,
                              const SampleOptions& options);

// The continuation, without the prompt. Contexts longer than seq_len slide: the model sees the last seq_len tokens.
std::string sample(GPT2& model, const Tokenizer& tokenizer, int seq_len, const SampleOptions& options);

// Index drawn from softmax(logits / temperature) among the top_k largest, by a uniform number in (0, 1). Ties go to the
// lower index. Throws NotFinite.
int32_t choose_token(const std::vector<float>& logits, double temperature, int top_k, double uniform);

}  // namespace llmc
