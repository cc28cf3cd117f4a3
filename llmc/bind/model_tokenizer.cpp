#include "llmc/bind/model_tokenizer.h"

#include "llmc/core/error.h"

namespace llmc::python {

ModelTokenizer::Name ModelTokenizer::named(const std::string& given) const {
    if (given.empty()) return name_;
    if (given == "byte" || given == "unknown") return {given, ""};
    if (given == "gpt2" && name_.path.empty())
        fail_usage(
            "tokenizer is gpt2, whose vocabulary is not beside the weights: give the path of a tokenizer.bin, "
            "vocab.json or tokenizer.json");
    if (given == "gpt2") return {given, name_.path};
    (void)Tokenizer::load(given);  // data error if it is none
    return {"gpt2", given};
}

const Tokenizer& ModelTokenizer::open() {
    if (opened_) return *opened_;
    if (unknown())
        fail_usage(
            "the model does not know its tokenizer: say tokenizer=\"byte\" or tokenizer=PATH of GPT-2's "
            "vocabulary (tokenizer.bin, vocab.json or tokenizer.json), or give token ids");
    if (name_.kind == "gpt2" && name_.path.empty())
        fail_usage(
            "GPT-2's vocabulary is not beside the weights: say tokenizer=PATH of a tokenizer.bin, vocab.json or "
            "tokenizer.json, or give token ids");
    opened_ = name_.kind == "byte" ? Tokenizer::byte() : Tokenizer::load(name_.path);
    return *opened_;
}

}  // namespace llmc::python
