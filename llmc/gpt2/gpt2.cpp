#include "llmc/gpt2/gpt2.h"

#include <algorithm>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/ops/profile.h"

namespace llmc {

GPT2::GPT2(const ModelShape& shape, const Parametrization& rules, const GPT2Options& options)
    : shape(shape), rules(rules), parameters(shape, rules, options.dtype), options_(options) {
    if (options.seq_len > shape.max_seq_len)
        fail_usage("--seq-len ", options.seq_len, " is longer than the model's ",
                   plural(shape.max_seq_len, "learned position"), ": shorten it, or train a model with more");
    const Memory needed = memory(shape, options);
    arena_ = device::Buffer(needed.activations);
    lay_out(acts_, shape, options, arena_.data());
    device::reserve_scratch(needed.scratch);
    parts_ = parameters.parts_by_completion(options.part_bytes);
    first_micro_batch_ = std::vector<device::Recording>(parts_.size());
    later_micro_batch_ = std::vector<device::Recording>(parts_.size());
}

GPT2::Memory GPT2::memory(const ModelShape& shape, const GPT2Options& options) {
    Activations activations;
    size_t values = 0, grads = 0;
    int64_t count = 0, tensors = 0;
    for (const TensorSpec& spec : tensor_specs(shape)) {
        const size_t n = size_t(stored_count(spec, shape));
        values += n * size_of(options.dtype);
        grads += n * sizeof(float);
        count += int64_t(n), ++tensors;
    }
    const size_t bytes = lay_out(activations, shape, options, nullptr);
    if (!options.train) return {values, 0, bytes, 0};
    return {values, grads, bytes,
            device::scratch_bytes({.batch = options.batch_size,
                                   .seq_len = options.seq_len,
                                   .width = shape.width,
                                   .heads = shape.heads,
                                   .logits_rows = activations.logits.rows(),
                                   .padded_vocab = shape.padded_vocab(),
                                   .tensors = tensors,
                                   .parameters = count,
                                   .dtype = options.dtype})};
}

int GPT2::batch_that_fits(const ModelShape& shape, GPT2Options options, size_t state_bytes, size_t bytes) {
    options.batch_size = 1;
    const Memory least = memory(shape, options);
    if (least.parameters + least.gradients + least.activations + state_bytes > bytes) return 0;
    const auto fits = [&](int batch_size) {
        options.batch_size = batch_size;
        return memory(shape, options).total() + state_bytes <= bytes;
    };
    int low = 0, high = 1;  // low fits, high does not
    for (; high < (1 << 24) && fits(high); high *= 2) low = high;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (fits(middle) ? low : high) = middle;
    }
    return low;
}

void GPT2::train_micro_batch(int64_t total_tokens, bool first, const std::function<void(size_t part)>& completed) {
    const uint64_t key = (uint64_t(total_tokens) * 0x9E3779B97F4A7C15u) ^ (uint64_t(B_) << 32) ^ uint64_t(T_);
    for (size_t i = 0; i < parts_.size(); ++i) {
        const auto work = [&] { run_part(i, total_tokens, first); };
        if (observer || Profile::on())
            work();  // one op at a time
        else
            (first ? first_micro_batch_ : later_micro_batch_)[i].run(key, work);
        if (completed) completed(i);
    }
}

// From where the part before it ended to what completes this one.
void GPT2::run_part(size_t i, int64_t total_tokens, bool first) {
    overwrite_ = first;
    const int end = i == 0 ? shape.depth : parts_[i - 1].blocks, begin = std::max(0, parts_[i].blocks);
    if (i == 0) start_micro_batch(total_tokens, first);
    backward_blocks(end, begin);
    if (i + 1 == parts_.size()) backward_embedding();
    overwrite_ = false;
}

void GPT2::start_micro_batch(int64_t total_tokens, bool first) {
    if (first) {
        zero_loss();
        parameters.zero_other_grads();
    }
    forward();
    loss_and_head_backward(float(1.0 / double(total_tokens)));
}

double GPT2::flops_per_token(const ModelShape& s, int seq_len) {
    return llmc::flops_per_token(s.depth, s.width, seq_len, s.vocab_size);
}

double GPT2::executed_flops_per_token(int seq_len) const {
    return llmc::executed_flops_per_token(shape.depth, shape.width, seq_len, shape.padded_vocab(),
                                          options_.recompute == Recompute::block);
}

void GPT2::set_batch(const int32_t* tokens, const int32_t* targets, int B, int T) {
    if (B < 1 || T < 1 || B > options_.batch_size || T > options_.seq_len)
        fail("a batch of ", B, " x ", T, " tokens does not fit the model's activations for ", options_.batch_size,
             " x ", options_.seq_len);
    B_ = B, T_ = T, first_ = 0;
    const size_t count = size_t(B) * size_t(T), bytes = count * sizeof(int32_t);
    targets_ = targets ? std::count_if(targets, targets + count, [](int32_t t) { return t != kNoTarget; }) : 0;
    device::copy_to_device(acts_.tokens.data, tokens, bytes);
    if (targets) device::copy_to_device(acts_.targets.data, targets, bytes);
}

void GPT2::cache_keys(bool keep) {
    const size_t row = size_t(3 * shape.width) * size_of(options_.dtype);
    cache_ = keep ? device::Buffer(size_t(shape.depth) * size_t(options_.seq_len) * row) : device::Buffer();
    first_ = 0;
}

Tensor GPT2::qkv_of(int layer) const {
    if (cache_.bytes() == 0) return acts_.blocks[size_t(layer)].qkv;
    const Tensor all(cache_.data(), options_.dtype, {int64_t{shape.depth} * options_.seq_len, 3 * shape.width});
    return all.row_slice(int64_t{layer} * options_.seq_len, options_.seq_len);
}

float GPT2::mean_loss() {
    zero_loss();
    forward();
    evaluate(1.0f / float(targets_));
    return loss();
}

std::vector<float> GPT2::losses() {
    zero_loss();
    forward();
    evaluate(0);  // only the losses of the targets are wanted, not their sum
    return download(acts_.losses, row_count());
}

void GPT2::zero_loss() { device::fill_zero(acts_.loss.data, sizeof(float)); }

float GPT2::loss() {
    float value;
    device::copy_to_host(&value, acts_.loss.data, sizeof value);
    return value;
}

std::vector<float> GPT2::logits(int64_t begin, int64_t count) {
    const int64_t V = shape.vocab_size, Vp = shape.padded_vocab();
    std::vector<float> out(count * V);
    for (int64_t row = 0; row < count; row += acts_.logits.shape[0]) {
        const int64_t n = std::min(acts_.logits.shape[0], count - row);
        head_logits(begin + row, n, acts_.logits.row_slice(0, n));
        const std::vector<float> padded = download(acts_.logits, n * Vp);
        for (int64_t i = 0; i < n; ++i)
            for (int64_t v = 0; v < V; ++v) out[(row + i) * V + v] = rules.scales().loss * padded[i * Vp + v];
    }
    return out;
}

void GPT2::observe(const char* prefix, int layer, const char* name, Tensor value) const {
    if (observer) observer(str(prefix, layer, name), value);
}

}  // namespace llmc
