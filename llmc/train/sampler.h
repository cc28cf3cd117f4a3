// Text from a model, token by token.
#pragma once
#include <functional>
#include <string>
#include <vector>
#include "llmc/data/tokenizer.h"
#include "llmc/gpt2/gpt2.h"
#include "llmc/train/token_choice.h"

namespace llmc {

struct SampleOptions {
    std::string prompt;  // empty: the start of a document
    Choice choice;
    int count = 256;   // tokens to generate; fewer at the end of the document and at `stop`
    std::string stop;  // the text ends before its first occurrence; empty: never
    uint64_t seed = 42;
    uint32_t stream = 0;  // the training step, so that the samples of a run differ
    uint32_t number = 0;  // of this sample among several of one prompt, which then differ
    // Called before each token with the number of those generated; false ends the text. Empty: never.
    std::function<bool(int64_t)> go_on = {};
    bool cache = true;  // keep keys and values of earlier positions; false computes them again for every token
};

struct Continuation {
    std::vector<int32_t> tokens;  // without the one in which options.stop begins, and those after it
    std::string text;             // up to options.stop; empty without a tokenizer
};

// What follows `tokens`: at most options.count, stopping before the token `end` (-1: never). tokenizer: null if there is
// no options.stop and the text is not needed. options.prompt is not used.
Continuation generate(GPT2& model, const Tokenizer* tokenizer, std::vector<int32_t> tokens, int seq_len, int32_t end,
                      const SampleOptions& options);

// The start of a document: the end of the one before, as in training, and the tokens of the text. Data error for a token
// that the model does not have.
std::vector<int32_t> document_start(const Tokenizer& tokenizer, const std::string& text, int vocab_size);

// The continuation, without the prompt. Contexts longer than seq_len slide: the model sees the last seq_len tokens.
std::string sample(GPT2& model, const Tokenizer& tokenizer, int seq_len, const SampleOptions& options);

}  // namespace llmc
