// The accuracy of a model on multiple-choice examples: an example is right if its right ending is the likeliest.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "llmc/data/multiple_choice.h"
#include "llmc/gpt2/gpt2.h"
#include "llmc/train/shared_work.h"

namespace llmc {

struct ChoiceScores {
    int64_t examples;
    double acc;                            // by the log-likelihood of the whole ending
    double acc_norm_tokens;                // divided by the ending's tokens, as llm.c
    std::optional<double> acc_norm_bytes;  // divided by the bytes of its text; none: the text is not known
    double loss;  // of the right endings: nats per token of each, mean over the examples; NaN if a score is
};

class ChoiceEvaluation {
public:
    // seq_len, batch_size: of the model's activations. The examples must outlive this.
    ChoiceEvaluation(const std::vector<ChoiceExample>& examples, int seq_len, int batch_size);

    int64_t batches() const { return (int64_t(rows_.size()) + batch_size_ - 1) / batch_size_; }
    // Nothing is returned if work.go_on says no.
    std::optional<ChoiceScores> run(GPT2& model, const SharedWork& work) const;

private:
    // Tokens of an example that are in one window, the last `scored` of which are of an ending and count.
    struct Row {
        std::vector<int32_t> tokens;
        size_t scored, ending;  // ending: its number among those of all examples
    };
    void add_rows(const std::vector<int32_t>& context, const std::vector<int32_t>& ending, size_t number, int seq_len);
    ChoiceScores judge(const std::vector<double>& losses) const;

    const std::vector<ChoiceExample>& examples_;
    size_t batch_size_, endings_ = 0;
    std::vector<Row> rows_;  // the longest first, so that the rows of a batch have similar lengths
};

// The fields of the log: examples, acc, ...
nlohmann::ordered_json to_json(const ChoiceScores& scores);
// Two lines: "choices ..." and "acc     ...".
std::string report(const ChoiceScores& scores, const std::string& path);

}  // namespace llmc
