#include "llmc/train/choice_evaluation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/core/no_target.h"
#include "llmc/train/progress.h"

namespace llmc {

ChoiceEvaluation::ChoiceEvaluation(const std::vector<ChoiceExample>& examples, int seq_len, int batch_size)
    : examples_(examples), batch_size_(size_t(batch_size)) {
    for (const ChoiceExample& example : examples_)
        for (const std::vector<int32_t>& ending : example.endings)
            add_rows(example.context, ending, endings_++, seq_len);
    std::stable_sort(rows_.begin(), rows_.end(),
                     [](const Row& a, const Row& b) { return a.tokens.size() > b.tokens.size(); });
}

// A window of seq_len tokens and the target after its last one: the end of context and ending. What an ending has
// before the last seq_len targets is scored in windows before that.
void ChoiceEvaluation::add_rows(const std::vector<int32_t>& context, const std::vector<int32_t>& ending, size_t number,
                                int seq_len) {
    const size_t T = size_t(seq_len);
    std::vector<int32_t> all = context;
    all.insert(all.end(), ending.begin(), ending.end());
    for (size_t left = ending.size(); left > 0;) {
        const size_t scored = std::min(left, T), begin = all.size() - std::min(all.size(), T + 1);
        rows_.push_back({{all.begin() + long(begin), all.end()}, scored, number});
        all.resize(all.size() - scored);
        left -= scored;
    }
}

std::optional<ChoiceScores> ChoiceEvaluation::run(GPT2& model, const SharedWork& work) const {
    std::vector<double> losses(endings_);  // of whole endings, in nats
    for (int64_t round = 0; round < batches(); round += work.ranks) {
        if (!work.go_on(round, batches())) return {};
        const size_t first = size_t(round + work.rank) * batch_size_;
        if (first >= rows_.size()) continue;
        const size_t B = std::min(batch_size_, rows_.size() - first), T = rows_[first].tokens.size() - 1;
        std::vector<int32_t> tokens(B * T, 0), targets(B * T, kNoTarget);
        for (size_t b = 0; b < B; ++b) {
            const Row& row = rows_[first + b];
            std::copy(row.tokens.begin(), row.tokens.end() - 1, tokens.begin() + long(b * T));
            std::copy(row.tokens.end() - long(row.scored), row.tokens.end(),
                      targets.begin() + long(b * T + row.tokens.size() - 1 - row.scored));
        }
        model.set_batch(tokens.data(), targets.data(), int(B), int(T));
        const std::vector<float> of_targets = model.losses();
        for (size_t i = 0; i < B * T; ++i) losses[rows_[first + i / T].ending] += double(of_targets[i]);
    }
    return judge(work.sum(losses));
}

ChoiceScores ChoiceEvaluation::judge(const std::vector<double>& losses) const {
    int64_t right = 0, right_by_tokens = 0, right_by_bytes = 0;
    const bool finite = std::all_of(losses.begin(), losses.end(), [](double x) { return std::isfinite(x); });
    double loss = finite ? 0 : std::numeric_limits<double>::quiet_NaN();
    bool text_known = true;
    const double* of_example = losses.data();
    for (const ChoiceExample& example : examples_) {
        const size_t n = example.endings.size();
        std::vector<double> by_tokens(n), by_bytes(n, std::numeric_limits<double>::infinity());
        for (size_t i = 0; i < n; ++i) {
            by_tokens[i] = of_example[i] / double(example.endings[i].size());
            if (!example.bytes.empty()) by_bytes[i] = of_example[i] / double(example.bytes[i]);
        }
        const auto is_right = [&](const double* first) {  // of equal ones the first counts
            return std::min_element(first, first + n) - first == example.label;
        };
        right += is_right(of_example);
        right_by_tokens += is_right(by_tokens.data());
        right_by_bytes += is_right(by_bytes.data());
        text_known = text_known && !example.bytes.empty();
        loss += by_tokens[size_t(example.label)];
        of_example += n;
    }
    const double count = double(examples_.size());
    ChoiceScores out{int64_t(examples_.size()),
                     double(right) / count,
                     double(right_by_tokens) / count,
                     {},
                     without_sign_of_nan(loss / count)};
    if (text_known) out.acc_norm_bytes = double(right_by_bytes) / count;
    return out;
}

nlohmann::ordered_json to_json(const ChoiceScores& s) {
    nlohmann::ordered_json out = {{"examples", s.examples}, {"acc", s.acc}, {"acc_norm_tokens", s.acc_norm_tokens}};
    if (s.acc_norm_bytes) out["acc_norm_bytes"] = *s.acc_norm_bytes;
    out["loss"] = s.loss;
    return out;
}

std::string report(const ChoiceScores& s, const std::string& path) {
    std::string text = str("choices ", plural(s.examples, "example"), " of ", path, "\nacc     ", decimals(s.acc, 4),
                           "; normalised by tokens ", decimals(s.acc_norm_tokens, 4));
    if (s.acc_norm_bytes) text += ", by bytes " + decimals(*s.acc_norm_bytes, 4);
    return text + "; right endings " + decimals(s.loss, 4) + " nats/token";
}

}  // namespace llmc
