// The parameters of a GPT-2: named tensors with their rules, and the handles that the forward and backward pass use.
#pragma once
#include <memory>
#include <string>
#include <vector>
#include "llmc/core/element_range.h"
#include "llmc/core/tensor.h"
#include "llmc/mup/parametrization.h"
#include "llmc/ops/device.h"

namespace llmc {

struct ModelShape {
    int depth, heads, width, max_seq_len, vocab_size;
    bool tie_embeddings;

    int padded_vocab() const {  // whole tiles of the head's product
        const int tile = device::vocabulary_tile();
        return (vocab_size + tile - 1) / tile * tile;
    }
    int head_dim() const { return width / heads; }
    Geometry geometry() const { return {depth, width, heads, head_dim(), vocab_size, tie_embeddings}; }
    bool operator==(const ModelShape&) const = default;
};

struct Parameter {
    TensorSpec spec;  // shape without padding: (V, C) for wte
    Rule rule;
    Tensor value;        // fp32 or bf16, (Vp, C) for wte: padding rows are zero and stay zero
    Tensor grad;         // fp32
    int64_t offset = 0;  // of the first element of value and grad among all parameters'
    ElementRange range() const { return {offset, grad.numel()}; }
};

struct LayerNormParameters {
    Parameter *weight, *bias;
};  // (C), (C)
struct LinearParameters {
    Parameter *weight, *bias;
};  // (OC, C), (OC)
struct BlockParameters {
    LayerNormParameters ln_1;
    LinearParameters attn_c_attn, attn_c_proj;  // (3C, C), (C, C)
    LayerNormParameters ln_2;
    LinearParameters mlp_c_fc, mlp_c_proj;  // (4C, C), (C, 4C)
};

// Names, roles and shapes, in the order of all tables and files.
std::vector<TensorSpec> tensor_specs(const ModelShape& shape);

// Elements in memory, padding rows included.
int64_t stored_count(const TensorSpec& spec, const ModelShape& shape);

// Copies between a host array of fp32 and the first elements of a device tensor of either float type.
void upload(Tensor dst, const std::vector<float>& values);
std::vector<float> download(Tensor src, int64_t count);

class Parameters {
public:
    Parameters(const ModelShape& shape, const Parametrization& rules, DType dtype);

    std::vector<Parameter>& all() { return all_; }
    Parameter& find(const std::string& name);  // throws Error naming the tensor
    DType dtype() const { return wte->value.dtype; }
    int64_t count() const;  // trainable numbers, without padding
    void zero_grad();
    // The same, except for weights of linear layers and of the head: a product can overwrite their gradients.
    void zero_other_grads() { device::fill_zero(grads_.data(), other_grad_bytes_); }
    // Ranges are of all parameters, in the order in which their values and gradients are in memory.
    Tensor values(ElementRange range) const { return {element(values_, dtype(), range.begin), dtype(), {range.count}}; }
    Tensor grads(ElementRange range) const {
        return {element(grads_, DType::f32, range.begin), DType::f32, {range.count}};
    }
    // All gradients in ranges of at least `bytes` (or one block's, where these are more), in the order in which the
    // backward pass completes them: an untied head, groups of blocks from the last to the first, everything else.
    // bytes = 0: one range.
    struct Part {
        ElementRange range;
        int blocks;  // the backward pass of blocks >= this completes it; depth: that of the head; -1: all of it
    };
    std::vector<Part> parts_by_completion(size_t bytes) const;
    // Initial weights by the rules, from the counter-based generator (doc/formats.md): the same on every backend.
    void initialise(uint64_t seed);

    // Host copies in fp32, without padding rows; set rounds to the parameter's type.
    static std::vector<float> get(const Parameter& p) { return download(p.value, p.spec.count()); }
    static void set(Parameter& p, const std::vector<float>& values);

    Parameter *wte, *wpe;  // (Vp, C), (maxT, C)
    std::vector<BlockParameters> blocks;
    LayerNormParameters ln_f;
    Parameter* lm_head;  // (Vp, C); wte when tied

private:
    static void* element(const device::Buffer& buffer, DType dtype, int64_t index) {
        return buffer.data() + index * int64_t(size_of(dtype));
    }
    std::vector<Parameter> all_;
    device::Buffer values_, grads_;  // in the same order: first the parameters of zero_other_grads()
    size_t other_grad_bytes_ = 0;
};

// Values of a spec as float(mean + std * normal), its leading `zero_rows` rows zero.
std::vector<float> initial_values(const TensorSpec& spec, const Rule& rule, uint64_t seed);

}  // namespace llmc
