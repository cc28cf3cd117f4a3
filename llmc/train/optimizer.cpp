#include "llmc/train/optimizer.h"

#include "llmc/core/alignment.h"
#include "llmc/core/random.h"
#include "llmc/ops/profile.h"

namespace llmc {

Optimizer::Optimizer(GPT2& model, const OptimizerOptions& options, Rounding rounding, uint64_t seed)
    : model_(model), options_(options), rounding_(rounding), seed_(seed), norm_(sizeof(float)) {
    const bool adam = options.kind == OptimizerKind::adamw, masters = model.parameters.dtype() == DType::bf16;
    auto& parameters = model.parameters.all();
    size_t bytes = 0;
    for (const Parameter& p : parameters) bytes += aligned(p.grad.bytes()) * (1 + adam + masters);
    memory_ = device::Buffer(bytes);
    char* next = memory_.data();
    auto take = [&](const char* prefix, const Parameter& p) {
        Tensor t = p.grad;
        t.data = next;
        next += aligned(t.bytes());
        state_.push_back({prefix + p.spec.name, &p, t});
        return t;
    };
    for (const Parameter& p : parameters) {
        updates_.push_back({.param = p.value,
                            .master = masters ? take("master.", p) : Tensor{},
                            .grad = p.grad,
                            .m = take("m.", p),
                            .v = adam ? take("v.", p) : Tensor{},
                            .lr = 0,
                            .decay = 0,
                            .eps = float(p.rule.eps),
                            .stream = stream_of(p.spec.name)});
        grads_.push_back(p.grad);
    }
}

size_t Optimizer::state_bytes(const ModelShape& shape, OptimizerKind kind, DType dtype) {
    GPT2::Memory memory = GPT2::memory(shape, {.batch_size = 1, .seq_len = 1});
    return memory.gradients * (1 + (kind == OptimizerKind::adamw) + (dtype == DType::bf16));
}

void Optimizer::masters_from_parameters() {
    for (const State& s : state_)
        if (s.name.starts_with("master.")) cast(s.value, s.parameter->value);
}

void Optimizer::compute_grad_norm() { call(global_norm, {norm_.data(), DType::f32, {1}}, grads_); }

float Optimizer::grad_norm() {
    float value;
    device::copy_to_host(&value, norm_.data(), sizeof value);
    return value;
}

void Optimizer::step(double schedule, int64_t step) {
    auto& parameters = model_.parameters.all();
    for (size_t i = 0; i < parameters.size(); ++i) {
        updates_[i].lr = float(parameters[i].rule.lr * schedule);
        updates_[i].decay = float(model_.rules.decay(parameters[i].rule, schedule));
    }
    OptimizerStep args{
        .parameters = updates_, .step = step, .stochastic_rounding = rounding_ == Rounding::stochastic, .seed = seed_};
    if (*options_.grad_clip > 0) {
        args.grad_norm = {norm_.data(), DType::f32, {1}};
        args.grad_clip = float(*options_.grad_clip);
    }
    if (options_.kind == OptimizerKind::adamw)
        call(adamw_step, args, float(options_.beta1), float(options_.beta2));
    else
        call(sgd_step, args, float(options_.momentum));
}

}  // namespace llmc
