#include "llmc/train/token_choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace llmc {
namespace {

std::vector<double> penalised(const std::vector<float>& logits, const std::vector<int32_t>& context, double penalty) {
    std::vector<double> x(logits.begin(), logits.end());
    if (penalty == 1) return x;
    std::vector<bool> seen(x.size());
    for (int32_t token : context) {
        double& value = x[size_t(token)];
        if (!seen[size_t(token)]) value = value > 0 ? value / penalty : value * penalty;
        seen[size_t(token)] = true;
    }
    return x;
}

// The index at which the sum of the weights reaches `part` of the whole.
size_t reaching(const std::vector<double>& weights, double part) {
    std::vector<double> sums(weights.size());
    std::partial_sum(weights.begin(), weights.end(), sums.begin());
    const size_t at = size_t(std::lower_bound(sums.begin(), sums.end(), part * sums.back()) - sums.begin());
    return std::min(at, sums.size() - 1);
}

}  // namespace

Candidates candidates(const std::vector<float>& logits, const std::vector<int32_t>& context, const Choice& choice) {
    const std::vector<double> x = penalised(logits, context, choice.repetition_penalty);
    if (!std::all_of(x.begin(), x.end(), [](double value) { return std::isfinite(value); })) throw NotFinite();
    const auto largest = std::max_element(x.begin(), x.end());
    if (choice.temperature == 0) return {{int32_t(largest - x.begin())}, {1.0}};
    Candidates out;
    out.tokens.resize(x.size());
    std::iota(out.tokens.begin(), out.tokens.end(), 0);
    const bool fewer = choice.top_k > 0 && size_t(choice.top_k) < x.size();
    if (fewer || choice.top_p < 1)
        std::stable_sort(out.tokens.begin(), out.tokens.end(), [&](int32_t a, int32_t b) { return x[a] > x[b]; });
    if (fewer) out.tokens.resize(size_t(choice.top_k));
    for (int32_t token : out.tokens) out.weights.push_back(std::exp((x[token] - *largest) / choice.temperature));
    if (choice.top_p < 1) {
        const size_t count = reaching(out.weights, choice.top_p) + 1;
        out.tokens.resize(count), out.weights.resize(count);
    }
    return out;
}

int32_t choose_token(const std::vector<float>& logits, const std::vector<int32_t>& context, const Choice& choice,
                     double uniform) {
    const Candidates from = candidates(logits, context, choice);
    return from.tokens[reaching(from.weights, uniform)];
}

}  // namespace llmc
