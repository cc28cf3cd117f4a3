#include "llmc/train/sampler.h"

#include <algorithm>

#include "llmc/core/error.h"
#include "llmc/core/random.h"

namespace llmc {
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

// A text that grows token by token, and ends before the first occurrence of `stop`, which may span tokens.
class GrowingText {
public:
    explicit GrowingText(const std::string& stop) : stop_(stop) {}

    // Returns whether the text has ended.
    bool add(const std::string& piece) {
        // what is before has no occurrence, so a new one ends in this piece
        const size_t from = text_.size() - std::min(text_.size(), stop_.size());
        text_ += piece;
        ends_.push_back(text_.size());
        const size_t at = stop_.empty() ? std::string::npos : text_.find(stop_, from);
        if (at == std::string::npos) return false;
        text_.resize(at);
        return true;
    }
    const std::string& text() const { return text_; }
    // The number of tokens that lie wholly in the text.
    size_t tokens() const { return size_t(std::upper_bound(ends_.begin(), ends_.end(), text_.size()) - ends_.begin()); }

private:
    const std::string& stop_;
    std::string text_;
    std::vector<size_t> ends_;  // of each token
};

}  // namespace

Continuation generate(GPT2& model, const Tokenizer* tokenizer, std::vector<int32_t> tokens, int seq_len, int32_t end,
                      const SampleOptions& options) {
    const size_t given = tokens.size();
    const uint64_t first_index = uint64_t{options.number} << 32;
    const KeysCache cache(model, options.cache);
    GrowingText text(options.stop);
    int computed = 0;  // rows of the batch that the cache holds
    for (int i = 0; i < options.count; ++i) {
        if (options.go_on && !options.go_on(i)) break;
        const int T = int(std::min(tokens.size(), size_t(seq_len)));
        model.set_batch(&tokens[tokens.size() - size_t(T)], nullptr, 1, T);
        model.forward(computed);
        // a full window slides, which changes every position
        computed = options.cache && tokens.size() < size_t(seq_len) ? T : 0;
        const uint32_t bits = draw(options.seed, Purpose::sampling, options.stream, first_index + tokens.size())[0];
        const int32_t token = choose_token(model.logits(T - 1, 1), tokens, options.choice, uniform(bits));
        if (token == end) break;
        tokens.push_back(token);
        if (tokenizer && text.add(tokenizer->decode({token}))) break;
    }
    tokens.erase(tokens.begin(), tokens.begin() + int64_t(given));
    if (tokenizer) tokens.resize(text.tokens());
    return {std::move(tokens), text.text()};
}

std::vector<int32_t> document_start(const Tokenizer& tokenizer, const std::string& text, int vocab_size) {
    std::vector<int32_t> tokens = {tokenizer.end_of_document()};
    for (int32_t token : tokenizer.encode(text)) tokens.push_back(token);
    for (int32_t token : tokens)
        if (token >= vocab_size)
            fail_data("the tokenizer's token ", token, " is beyond the model's vocabulary of ", vocab_size,
                      ": give the right --tokenizer");
    return tokens;
}

std::string sample(GPT2& model, const Tokenizer& tokenizer, int seq_len, const SampleOptions& options) {
    std::vector<int32_t> tokens = document_start(tokenizer, options.prompt, model.shape.vocab_size);
    return generate(model, &tokenizer, std::move(tokens), seq_len, tokenizer.end_of_document(), options).text;
}

}  // namespace llmc
