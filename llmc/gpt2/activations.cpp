#include "llmc/gpt2/activations.h"

#include <algorithm>

#include "llmc/gpt2/arena.h"

namespace llmc {
namespace {

using Lives = std::vector<Lifetime>;

// The moments of a training step, in order; inference ends with the head.
struct Moments {
    int depth;
    int embedding() const { return 0; }
    int forward(int block) const { return 1 + block; }
    int ln_f() const { return depth + 1; }
    int head() const { return depth + 2; }
    int ln_f_backward() const { return depth + 3; }
    int backward(int block) const { return depth + 4 + (depth - 1 - block); }
    int end() const { return 2 * depth + 4; }  // the embedding's gradient
};

class Layout {
public:
    Layout(const ModelShape& shape, const GPT2Options& options) : shape_(shape), o_(options), at_{shape.depth} {}

    void describe(Activations& a) {
        const int64_t B = o_.batch_size, T = o_.seq_len, N = B * T, C = shape_.width;
        const Lives always = {{0, at_.end()}};
        add(a.tokens, DType::i32, {B, T}, always);
        add(a.targets, DType::i32, {B, T}, always);
        add(a.losses, DType::f32, {N}, always);
        add(a.loss, DType::f32, {1}, always);
        add(a.embedding, o_.dtype, {N, C}, kept(at_.embedding(), shape_.depth ? at_.backward(0) : at_.end()));
        a.blocks.resize(size_t(shape_.depth));
        for (int l = 0; l < shape_.depth; ++l) describe_block(a.blocks[size_t(l)], l, B, T, C);
        layer_norm(a.ln_f, N, C, {{at_.ln_f(), o_.train ? at_.ln_f_backward() : at_.head()}});
        add(a.logits, o_.dtype, {logits_rows(), shape_.padded_vocab()}, {{at_.head(), at_.head()}});
        if (!o_.train) return;
        add(a.dbranch, o_.dtype, {N, C}, {{at_.head(), at_.end()}});
        add(a.dresidual, o_.dtype, {N, C}, {{at_.ln_f_backward(), at_.end()}});
        add(a.dwide, o_.dtype, {N, 4 * C}, {{at_.ln_f_backward(), at_.end()}});
        add(a.dattn, o_.dtype, {N, C}, {{at_.ln_f_backward(), at_.end()}});
    }

    size_t place(char* base) const {
        std::vector<ArenaBuffer> buffers;
        for (const Request& r : requests_) buffers.push_back({r.tensor->bytes(), r.lives});
        const ArenaPlan plan = plan_arena(buffers);
        for (size_t i = 0; base && i < requests_.size(); ++i) requests_[i].tensor->data = base + plan.offsets[i];
        return plan.bytes;
    }

private:
    struct Request {
        Tensor* tensor;
        Lives lives;
    };

    void add(Tensor& tensor, DType dtype, std::initializer_list<int64_t> dims, const Lives& lives) {
        tensor = Tensor(nullptr, dtype, dims);
        requests_.push_back({&tensor, lives});
    }
    void layer_norm(LayerNormActivations& a, int64_t N, int64_t C, const Lives& lives) {
        add(a.out, o_.dtype, {N, C}, lives);
        add(a.mean, DType::f32, {N}, lives);
        add(a.rstd, DType::f32, {N}, lives);
    }
    // Needed in the forward pass from `from` until the next moment, in training until `until`.
    Lives kept(int from, int until) const { return {{from, o_.train ? until : from + 1}}; }

    void describe_block(BlockActivations& a, int l, int64_t B, int64_t T, int64_t C) {
        const int64_t N = B * T;
        const int forward = at_.forward(l), backward = at_.backward(l);
        const Lives here = {{forward, forward}}, twice = {{forward, forward}, {backward, backward}};
        const Lives inner = !o_.train ? here : o_.recompute == Recompute::block ? twice : Lives{{forward, backward}};
        const Lives gelu = o_.train && o_.recompute == Recompute::gelu ? twice : inner;
        layer_norm(a.ln_1, N, C, inner);
        add(a.qkv, o_.dtype, {N, 3 * C}, inner);
        add(a.attn, o_.dtype, {N, C}, inner);
        add(a.lse, DType::f32, {B, shape_.heads, T}, inner);
        add(a.residual_attn, o_.dtype, {N, C}, inner);
        layer_norm(a.ln_2, N, C, inner);
        add(a.fc, o_.dtype, {N, 4 * C}, inner);
        add(a.fc_gelu, o_.dtype, {N, 4 * C}, gelu);
        // The input of the next block or of ln_f, which their backward passes read.
        add(a.residual_mlp, o_.dtype, {N, C},
            kept(forward, l + 1 < shape_.depth ? at_.backward(l + 1) : at_.ln_f_backward()));
    }
    int64_t logits_rows() const {
        const int64_t N = int64_t{o_.batch_size} * o_.seq_len;
        const int64_t row = shape_.padded_vocab() * int64_t(size_of(o_.dtype));
        return std::clamp<int64_t>(o_.logits_rows ? o_.logits_rows : int64_t(device::logits_budget()) / row, 1, N);
    }

    const ModelShape& shape_;
    const GPT2Options& o_;
    Moments at_;
    std::vector<Request> requests_;
};

}  // namespace

size_t lay_out(Activations& activations, const ModelShape& shape, const GPT2Options& options, char* base) {
    Layout layout(shape, options);
    layout.describe(activations);
    return layout.place(base);
}

}  // namespace llmc
