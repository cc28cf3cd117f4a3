// Multiple-choice examples: a context and several endings, one of which is right. HellaSwag (Zellers et al. 2019) as its
// public JSON lines, or as llm.c's eval file (doc/formats.md, "Multiple choice").
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "llmc/data/tokenizer.h"

namespace llmc {

struct ChoiceExample {
    std::vector<int32_t> context;               // at least one token
    std::vector<std::vector<int32_t>> endings;  // at least two, of at least one token each
    int label = 0;                              // number of the right ending
    std::vector<int64_t> bytes;                 // of each ending's text; empty: not known
};

// The tokens that a model knows.
struct ModelTokens {
    std::string tokenizer;  // "byte", "gpt2" or "unknown"
    int64_t vocab_size;
    std::function<std::unique_ptr<Tokenizer>()> open;  // called for JSON lines; throws if there is none
};

// The first `limit` examples of a file, 0: all. Data error that names the file and the line or byte.
std::vector<ChoiceExample> read_choices(const std::string& path, int64_t limit, const ModelTokens& tokens);

}  // namespace llmc
