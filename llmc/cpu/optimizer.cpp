// AdamW and SGD over all tensors of a step. Formulas: llmc/ops/ops.h; rounding and its random numbers: doc/formats.md.
#include <algorithm>
#include <cmath>
#include "llmc/core/random.h"
#include "llmc/cpu/blocks.h"
#include "llmc/cpu/kernels.h"
#include "llmc/cpu/vector.h"
#include "llmc/ops/checks.h"

namespace llmc::cpu::LLMC_ISA {

namespace {

// random16[4 * i + j] = the low 16 bits of number j of draw `index` + i, for kDraws draws.
constexpr int kDraws = 64;
void draw_rounding(uint32_t* random16, uint64_t seed, uint32_t stream, uint64_t index) {
#pragma omp simd
    for (int i = 0; i < kDraws; ++i) {
        Philox x = draw(seed, Purpose::rounding, stream, index + i);
        for (int j = 0; j < 4; ++j) random16[4 * i + j] = x[j] & 0xffffu;
    }
}

// param = weights, rounded to nearest or stochastically. `begin`, the index of weights[0] in the tensor, is a multiple
// of 4.
void store_rounded(const OptimizerStep& args, const ParameterUpdate& p, const float* weights, int64_t begin,
                   int64_t n) {
    bf16* param = p.param.as<bf16>() + begin;
    if (!args.stochastic_rounding) return from_floats(param, weights, n);
    uint32_t random16[4 * kDraws];
    for (int64_t i = 0; i < n; i += 4 * kDraws) {
        draw_rounding(random16, args.seed, p.stream, uint64_t(p.first + begin + i) / 4 + (uint64_t(args.step) << 40));
        int64_t count = std::min<int64_t>(4 * kDraws, n - i);
#pragma omp simd
        for (int64_t j = 0; j < count; ++j) param[i + j] = to_bf16_stochastic(weights[i + j], random16[j]);
    }
}

// The factor of the gradient. If the norm is NaN it is NaN: the run fails visibly instead of going on without clipping.
float clip_factor(const OptimizerStep& args) {
    if (!args.grad_norm) return 1;
    float norm = *args.grad_norm.as<float>();
    return norm <= args.grad_clip ? 1 : args.grad_clip / norm;
}

// Calls update(p, weights, begin, n) on all blocks: `weights` are the fp32 weights of [begin, begin + n), updated in
// place.
template <class Update>
void step(const char* op, const OptimizerStep& args, bool second_moment, Update&& update) {
    check_optimizer(op, args, second_moment);
    const Blocks all(args.parameters, [](const ParameterUpdate& p) { return p.param.numel(); });
    all.parallel([&](size_t, const Block& block) {
        alignas(64) float converted[1024];
        const ParameterUpdate& p = args.parameters[block.tensor];
        // In pieces that fit into the first-level cache, because `weights` is written and read again.
        for (int64_t begin = block.begin; begin < block.end; begin += 1024) {
            const int64_t end = std::min(begin + 1024, block.end);
            const bool is_float = p.param.dtype == DType::f32;
            float* weights = p.master   ? p.master.as<float>() + begin
                             : is_float ? p.param.as<float>() + begin
                                        : converted;
            if (weights == converted) to_floats(converted, p.param.as<bf16>() + begin, end - begin);
            update(p, weights, begin, end - begin);
            if (!is_float)
                store_rounded(args, p, weights, begin, end - begin);
            else if (p.master)
                std::copy(weights, weights + (end - begin), p.param.as<float>() + begin);
        }
    });
}

}  // namespace

void adamw_step(const OptimizerStep& args, float beta1, float beta2) {
    float clip = clip_factor(args);
    // Bias corrections in double: 1 - beta2^step loses digits in float at the first steps.
    float correction1 = float(1 / (1 - std::pow(double(beta1), double(args.step))));
    float correction2 = float(1 / (1 - std::pow(double(beta2), double(args.step))));
    step("adamw_step", args, true, [=](const ParameterUpdate& p, float* weights, int64_t begin, int64_t n) {
        const float* grad = p.grad.as<float>() + begin;
        float *moment1 = p.m.as<float>() + begin, *moment2 = p.v.as<float>() + begin;
        float keep = 1 - p.decay, rate = p.lr * correction1, eps = p.eps;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            float g = clip * grad[i];
            float m = moment1[i] = beta1 * moment1[i] + (1 - beta1) * g;
            float v = moment2[i] = beta2 * moment2[i] + (1 - beta2) * g * g;
            weights[i] = keep * weights[i] - rate * m / (std::sqrt(v * correction2) + eps);
        }
    });
}

void sgd_step(const OptimizerStep& args, float momentum) {
    float clip = clip_factor(args);
    bool first = args.step == 1;  // the momentum buffer is not set yet
    step("sgd_step", args, false, [=](const ParameterUpdate& p, float* weights, int64_t begin, int64_t n) {
        const float* grad = p.grad.as<float>() + begin;
        float *moment = p.m.as<float>() + begin, keep = 1 - p.decay, rate = p.lr;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            float m = moment[i] = (first ? 0.0f : momentum * moment[i]) + clip * grad[i];
            weights[i] = keep * weights[i] - rate * m;
        }
    });
}

}  // namespace llmc::cpu::LLMC_ISA
