// Causal attention, backward: delta, dq, then dk and dv. attention/backward_bf16.h on tensor cores, attention/fp32.h.
#include "llmc/cuda/attention/backward_bf16.h"
#include "llmc/cuda/attention/dispatch.h"
#include "llmc/cuda/attention/fp32_backward.h"

namespace llmc {

using namespace cuda;

namespace {

template <int kSize, class T>
void compute_delta(float* delta, const AttentionBackward& args, const Heads& heads, int64_t rows) {
    launch({unsigned(ceil_div(rows * (kSize / kVec), 256)), 256}, attention_delta_kernel<kSize, T>, delta,
           args.dout.as<T>(), args.out.as<T>(), heads, rows);
}

template <int kSize, bool kAligned>
void backward_bf16(const AttentionBackward& args, const Heads& heads, int64_t all_heads, const float* delta) {
    using Query = QueryTraits<kSize>;
    using Key = KeyTraits<kSize>;
    const BackwardScales scales{args.logit_scale, args.out_scale};
    const auto launch_kernel = [&](auto kernel, int threads, int rows, size_t shared) {
        const int tiles = int(ceil_div(heads.length, rows));
        launch({unsigned(all_heads * tiles), unsigned(threads), shared}, kernel, args.dqkv.as<bf16>(),
               args.dout.as<bf16>(), args.qkv.as<bf16>(), args.lse.as<float>(), delta, heads, tiles, scales);
    };
    launch_kernel(attention_dq_bf16_kernel<kSize, kAligned>, Query::kThreads, Query::kQueries,
                  sizeof(typename Query::Shared));
    launch_kernel(attention_dkv_bf16_kernel<kSize, kAligned>, Key::kThreads, Key::kKeys, sizeof(typename Key::Shared));
}

void backward_fp32(const AttentionBackward& args, const Heads& heads, int64_t all_heads, const float* delta) {
    const int tiles = int(ceil_div(heads.length, kFp32Rows));
    for (auto kernel : {attention_dq_fp32_kernel, attention_dkv_fp32_kernel})
        launch({unsigned(all_heads * tiles), kFp32AttentionThreads, sizeof(Fp32BackwardShared)}, kernel,
               args.dqkv.as<float>(), args.dout.as<float>(), args.qkv.as<float>(), args.lse.as<float>(), delta, heads,
               tiles, args.logit_scale, args.out_scale);
}

}  // namespace

void attention_backward(const AttentionBackward& args) {
    const AttentionShape shape = check(args);
    const int64_t all_heads = shape.B * shape.H, rows = all_heads * shape.T;
    if (rows == 0) return;
    const Heads heads = heads_of(
        "attention_backward", shape,
        is_aligned(args.dqkv) && is_aligned(args.dout) && is_aligned(args.out) && is_aligned(args.qkv));
    const Workspace memory({size_t(rows) * sizeof(float)});
    float* delta = memory.part<float>(0);
    with_head_size(heads.size, [&]<int kSize>() {
        if (args.qkv.dtype == DType::f32) {
            compute_delta<kSize, float>(delta, args, heads, rows);
            backward_fp32(args, heads, all_heads, delta);
        } else {
            compute_delta<kSize, bf16>(delta, args, heads, rows);
            if (heads.aligned)
                backward_bf16<kSize, true>(args, heads, all_heads, delta);
            else
                backward_bf16<kSize, false>(args, heads, all_heads, delta);
        }
    });
}

}  // namespace llmc
