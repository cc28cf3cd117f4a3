#include "llmc/train/optimizer.h"

#include <algorithm>

#include "llmc/core/alignment.h"
#include "llmc/core/random.h"
#include "llmc/ops/profile.h"

namespace llmc {

namespace {

// The elements of a parameter that are also in one of the ranges, counted from its first one. Every range of
// parts_of() is within one range of gradients, so at most one range meets a parameter.
ElementRange owned_of(const Parameter& p, const std::vector<ElementRange>& owned) {
    if (owned.empty()) return {0, p.grad.numel()};
    const ElementRange all = p.range();
    for (const ElementRange& range : owned) {
        const int64_t begin = std::max(all.begin, range.begin), end = std::min(all.end(), range.end());
        if (begin < end) return {begin - all.begin, end - begin};
    }
    return {0, 0};
}

}  // namespace

Optimizer::Optimizer(GPT2& model, const OptimizerOptions& options, Rounding rounding, uint64_t seed,
                     const std::vector<ElementRange>& owned)
    : model_(model), options_(options), rounding_(rounding), seed_(seed), norm_(sizeof(float)) {
    const bool adam = options.kind == OptimizerKind::adamw, masters = model.parameters.dtype() == DType::bf16;
    auto& parameters = model.parameters.all();
    size_t bytes = 0;
    for (const Parameter& p : parameters)
        bytes += aligned(size_t(owned_of(p, owned).count) * sizeof(float)) * (1 + adam + masters);
    memory_ = device::Buffer(bytes);
    char* next = memory_.data();
    auto take = [&](const char* prefix, const Parameter& p, ElementRange part) {
        Tensor t = p.grad;  // its shape if it is whole
        if (part.count < p.grad.numel()) t = Tensor(nullptr, DType::f32, {part.count});
        t.data = next;
        next += aligned(t.bytes());
        state_.push_back({prefix + p.spec.name, &p, t, part.begin});
        return t;
    };
    for (const Parameter& p : parameters) {
        const ElementRange part = owned_of(p, owned);
        const Tensor master = masters ? take("master.", p, part) : Tensor{}, m = take("m.", p, part),
                     v = adam ? take("v.", p, part) : Tensor{}, grad = p.grad.slice(part.begin, part.count);
        if (part.count == 0) continue;
        updated_.push_back(&p);
        updates_.push_back({.param = p.value.slice(part.begin, part.count),
                            .master = master,
                            .grad = grad,
                            .m = m,
                            .v = v,
                            .lr = 0,
                            .decay = 0,
                            .eps = float(p.rule.eps),
                            .stream = stream_of(p.spec.name),
                            .first = part.begin});
        grads_.push_back(grad);
    }
}

size_t Optimizer::state_bytes(const ModelShape& shape, OptimizerKind kind, DType dtype, int ranks) {
    GPT2::Memory memory = GPT2::memory(shape, {.batch_size = 1, .seq_len = 1});
    return memory.gradients * (1 + (kind == OptimizerKind::adamw) + (dtype == DType::bf16)) / size_t(ranks);
}

void Optimizer::masters_from_parameters() {
    for (const State& s : state_)
        if (s.name.starts_with("master.") && s.value.numel() > 0)
            cast(s.value, s.parameter->value.slice(s.first, s.value.numel()));
}

void Optimizer::compute_grad_norm() { call(global_norm, {norm_.data(), DType::f32, {1}}, grads_); }

float Optimizer::grad_norm() {
    float value;
    device::copy_to_host(&value, norm_.data(), sizeof value);
    return value;
}

void Optimizer::set_grad_norm(float x) { device::copy_to_device(norm_.data(), &x, sizeof x); }

void Optimizer::step(double schedule, int64_t step) {
    for (size_t i = 0; i < updates_.size(); ++i) {
        const Rule& rule = updated_[i]->rule;
        updates_[i].lr = float(rule.lr * schedule);
        updates_[i].decay = float(model_.rules.decay(rule, schedule));
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
