// The tokenizer of a model that Python code holds: that of its checkpoint, or a given one.
#pragma once
#include <optional>
#include <string>

#include "llmc/data/tokenizer.h"
#include "llmc/train/checkpoint/checkpoint.h"

namespace llmc::python {

class ModelTokenizer {
public:
    struct Name {
        std::string kind = "unknown", path;  // byte, gpt2 or unknown; of GPT-2's vocabulary
    };
    // given: "byte", "unknown", "gpt2" with the vocabulary beside the weights, or the path of GPT-2's vocabulary; "": the
    // model's own. Usage error for gpt2 without a vocabulary, data error for a file that is none.
    Name named(const std::string& given) const;
    void take(const Name& name) { name_ = name, opened_.reset(); }
    void take(const ModelFile& file) { take(Name{file.tokenizer, file.tokenizer_path}); }
    bool unknown() const { return name_.kind == "unknown"; }
    // Usage error if the model has none.
    const Tokenizer& open();

private:
    Name name_;
    std::optional<Tokenizer> opened_;  // on first use
};

}  // namespace llmc::python
