// AdamW and SGD over all parameters in one launch, each with its own lr, decay and epsilon. Formulas: llmc/ops/ops.h;
// rounding and its random numbers: doc/formats.md.
//
// Bytes a parameter, AdamW: gradient 4 read, moments 8 read and 8 written, weight 4 + 4, and in bf16 2 more for the
// rounded copy: 28 or 30. Bound: memory; floor 868 us for 124M in bf16 on an H200. Stochastic rounding adds ten rounds
// of Philox per four parameters.
//
// A thread updates 4 neighbours, twice: each access of a warp is 512 bytes of fp32 in a row, or 256 of bf16, without a
// sector in part. It loads its 128 bytes before it uses the first.
#include <cmath>

#include "llmc/core/random.h"
#include "llmc/cuda/host.h"
#include "llmc/cuda/tensor_list.h"
#include "llmc/cuda/vec.h"
#include "llmc/ops/checks.h"

namespace llmc {
namespace cuda {
namespace {

struct Entry {
    void* param;
    float *master, *m, *v;
    const float* grad;
    int64_t count, first_block;
    float lr, decay, eps;
    uint32_t stream;
    uint32_t first_draw;  // a draw of random numbers serves 4 elements of the tensor, of which this may be a part
    int16_t is_bf16, aligned;
};

struct Step {
    const float* grad_norm;  // null: no clipping
    float grad_clip;
    float beta1, beta2, correction1, correction2;  // AdamW; SGD: beta1 is the momentum
    int64_t step;
    uint64_t seed;
    int stochastic;
};

// The factor of the gradient. If the norm is NaN it is NaN: the run fails visibly instead of going on without clipping.
GPU float clip_factor(const Step& s) {
    if (!s.grad_norm) return 1;
    const float norm = *s.grad_norm;
    return norm <= s.grad_clip ? 1 : s.grad_clip / norm;
}

GPU void adamw_update(const Step& s, const Entry& e, float grad, float& m, float& v, float& w) {
    m = s.beta1 * m + (1 - s.beta1) * grad;
    v = s.beta2 * v + (1 - s.beta2) * grad * grad;
    w = (1 - e.decay) * w - e.lr * s.correction1 * m / (sqrtf(v * s.correction2) + e.eps);
}

GPU void sgd_update(const Step& s, const Entry& e, float grad, float& m, float& w) {
    m = (s.step == 1 ? 0.0f : s.beta1 * m) + grad;  // the momentum buffer is not set yet at step 1
    w = (1 - e.decay) * w - e.lr * m;
}

// A thread's part of a block: kParts times 4 elements. In each, the next lane has the next 4.
constexpr int kParts = 2, kWidth = 4;
static_assert(kListBlock == kParts * kWidth * kListThreads);

// kWhole: all 4 elements exist, and their address is a multiple of 16 bytes (8 in bf16).
template <bool kWhole, class T>
GPU void load_part(float (&x)[kWidth], const T* p, int64_t i, const Entry& e) {
    kWhole ? load(x, p + i) : load_upto(x, p + i, e.count - i, e.aligned);
}
template <bool kWhole, class T>
GPU void store_part(T* p, int64_t i, const float (&x)[kWidth], const Entry& e) {
    kWhole ? store(p + i, x) : store_upto(p + i, x, e.count - i, e.aligned);
}

// param[i, i + 4) = w, rounded to nearest or stochastically.
template <bool kWhole>
GPU void store_bf16(const Step& s, const Entry& e, int64_t i, const float (&w)[kWidth]) {
    bf16* param = static_cast<bf16*>(e.param);
    if (!s.stochastic) return store_part<kWhole>(param, i, w, e);
    const Philox x = draw(s.seed, Purpose::rounding, e.stream,
                          e.first_draw + uint64_t(i) / 4 + (uint64_t(s.step) << 40));
    float rounded[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) rounded[k] = to_float(to_bf16_stochastic(w[k], x[k] & 0xffffu));
    store_part<kWhole>(param, i, rounded, e);  // exact: these are bf16 numbers
}

template <bool kAdam, bool kWhole>
GPU void update_block(const Step& s, const Entry& e, int64_t first) {
    float grad[kParts][kWidth], m[kParts][kWidth], v[kParts][kWidth], w[kParts][kWidth];
    const auto element = [&](int j) { return first + (j * kListThreads + int64_t(threadIdx.x)) * kWidth; };
    const bool from_bf16 = e.is_bf16 && !e.master;
    const float* weights = e.master ? e.master : static_cast<const float*>(e.param);
    const float clip = clip_factor(s);
#pragma unroll
    for (int j = 0; j < kParts; ++j) {  // all loads before the first use
        const int64_t i = element(j);
        load_part<kWhole>(grad[j], e.grad, i, e);
        load_part<kWhole>(m[j], e.m, i, e);
        if constexpr (kAdam) load_part<kWhole>(v[j], e.v, i, e);
    }
#pragma unroll
    for (int j = 0; j < kParts; ++j)
        if (from_bf16)
            load_part<kWhole>(w[j], static_cast<const bf16*>(e.param), element(j), e);
        else
            load_part<kWhole>(w[j], weights, element(j), e);
#pragma unroll
    for (int j = 0; j < kParts; ++j) {
        const int64_t i = element(j);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
            if constexpr (kAdam)
                adamw_update(s, e, clip * grad[j][k], m[j][k], v[j][k], w[j][k]);
            else
                sgd_update(s, e, clip * grad[j][k], m[j][k], w[j][k]);
        }
        store_part<kWhole>(e.m, i, m[j], e);
        if constexpr (kAdam) store_part<kWhole>(e.v, i, v[j], e);
        if (e.master) store_part<kWhole>(e.master, i, w[j], e);
        if (e.is_bf16)
            store_bf16<kWhole>(s, e, i, w[j]);
        else
            store_part<kWhole>(static_cast<float*>(e.param), i, w[j], e);
    }
}

template <bool kAdam>
__global__ void __launch_bounds__(kListThreads) step_kernel(Step s, TensorList<Entry> list) {
    launch_bounds<kListThreads>();
    int64_t first;
    const Entry e = entry_of_block<kListBlock>(list, first);
    if (e.aligned && e.count - first >= kListBlock)
        update_block<kAdam, true>(s, e, first);
    else
        update_block<kAdam, false>(s, e, first);
}

void step(const char* op, const OptimizerStep& args, const Step& step, bool adam) {
    check_optimizer(op, args, adam);
    std::vector<Entry> entries;
    for (const ParameterUpdate& p : args.parameters) {
        if (p.param.numel() == 0) continue;
        const bool aligned = is_aligned(p.param) && is_aligned(p.master) && is_aligned(p.grad) && is_aligned(p.m) &&
                             is_aligned(p.v);
        entries.push_back({.param = p.param.data,
                           .master = p.master.as<float>(),
                           .m = p.m.as<float>(),
                           .v = p.v.as<float>(),
                           .grad = p.grad.as<float>(),
                           .count = p.param.numel(),
                           .first_block = 0,
                           .lr = p.lr,
                           .decay = p.decay,
                           .eps = p.eps,
                           .stream = p.stream,
                           .first_draw = uint32_t(p.first / 4),
                           .is_bf16 = p.param.dtype == DType::bf16,
                           .aligned = aligned});
    }
    const int64_t blocks = number_blocks<kListBlock>(entries);
    if (blocks == 0) return;
    const Workspace memory({list_bytes(entries)});
    launch({unsigned(blocks), kListThreads}, adam ? step_kernel<true> : step_kernel<false>, step,
           upload_list(entries, memory.part<Entry>(0)));
}

Step common(const OptimizerStep& args) {
    return {.grad_norm = args.grad_norm.as<float>(),
            .grad_clip = args.grad_clip,
            .step = args.step,
            .seed = args.seed,
            .stochastic = args.stochastic_rounding};
}

}  // namespace
}  // namespace cuda

using namespace cuda;

void adamw_step(const OptimizerStep& args, float beta1, float beta2) {
    Step s = common(args);
    s.beta1 = beta1;
    s.beta2 = beta2;
    // Bias corrections in double: 1 - beta2^step loses digits in float at the first steps.
    s.correction1 = float(1 / (1 - std::pow(double(beta1), double(args.step))));
    s.correction2 = float(1 / (1 - std::pow(double(beta2), double(args.step))));
    step("adamw_step", args, s, true);
}

void sgd_step(const OptimizerStep& args, float momentum) {
    Step s = common(args);
    s.beta1 = momentum;
    step("sgd_step", args, s, false);
}

}  // namespace llmc
