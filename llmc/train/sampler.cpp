#include "llmc/train/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "llmc/core/random.h"

namespace llmc {

int32_t choose_token(const std::vector<float>& logits, double temperature, int top_k, double uniform) {
    if (!std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); })) throw NotFinite();
    if (temperature == 0) return int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin());
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    if (top_k > 0 && size_t(top_k) < order.size()) {
        std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
        order.resize(top_k);
    }
    const float largest = *std::max_element(logits.begin(), logits.end());
    std::vector<double> cumulative;
    double sum = 0;
    for (int32_t i : order) cumulative.push_back(sum += std::exp((double(logits[i]) - largest) / temperature));
    const size_t at = std::lower_bound(cumulative.begin(), cumulative.end(), uniform * sum) - cumulative.begin();
    return order[std::min(at, order.size() - 1)];
}

namespace {

class KeysCache {  // of a model that does not keep it, for training
public:
    KeysCache(GPT2& model, bool on) : model_(model) { model_.cache_keys(on); }
    ~KeysCache() { model_.cache_keys(false); }
    KeysCache(const KeysCache&) = delete;
    KeysCache& operator=(const KeysCache&) = delete;

private:
    GPT2& model_;
};

}  // namespace

std::vector<int32_t> generate(GPT2& model, std::vector<int32_t> tokens, int seq_len, int32_t end,
                              const SampleOptions& options) {
    const size_t given = tokens.size();
    const KeysCache cache(model, options.cache);
    int computed = 0;  // rows of the batch that the cache holds
    for (int i = 0; i < options.count; ++i) {
        if (options.go_on && !options.go_on(i)) break;
        const int T = std::min<int>(int(tokens.size()), seq_len);
        model.set_batch(&tokens[tokens.size() - T], nullptr, 1, T);
        model.forward(computed);
        // a full window slides, which changes every position
        computed = options.cache && tokens.size() < size_t(seq_len) ? T : 0;
        const uint32_t bits = draw(options.seed, Purpose::sampling, options.stream, tokens.size())[0];
        const int32_t token = choose_token(model.logits(T - 1, 1), options.temperature, options.top_k, uniform(bits));
        if (token == end) break;
        tokens.push_back(token);
    }
    tokens.erase(tokens.begin(), tokens.begin() + int64_t(given));
    return tokens;
}

std::string sample(GPT2& model, const Tokenizer& tokenizer, int seq_len, const SampleOptions& options) {
    std::vector<int32_t> tokens = {tokenizer.end_of_document()};  // documents start after it in training
    for (int32_t token : tokenizer.encode(options.prompt)) tokens.push_back(token);
    for (int32_t token : tokens)
        if (token >= model.shape.vocab_size)
            fail_data("the tokenizer's token ", token, " is beyond the model's vocabulary of ", model.shape.vocab_size,
                      ": give the right --tokenizer");
    return tokenizer.decode(generate(model, std::move(tokens), seq_len, tokenizer.end_of_document(), options));
}

}  // namespace llmc
