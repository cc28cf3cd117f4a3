// Causal attention, backward: delta, dq, then dk and dv. attention/backward_bf16.h on tensor cores, attention/fp32.h.
#include "llmc/cuda/attention/backward_bf16.h"
#include "llmc/cuda/attention/dispatch.h"
#include "llmc/cuda/attention/fp32_backward.h"
#include "llmc/cuda/scratch.h"

namespace llmc {

using namespace cuda;

namespace {

template <int kSize, class T>
void compute_delta(float* delta, const AttentionBackward& args, const Heads& heads, int64_t rows) {
    launch({unsigned(ceil_div(rows * (kSize / kVec), 256)), 256}, attention_delta_kernel<kSize, T>, delta,
           args.dout.as<T>(), args.out.as<T>(), heads, rows);
}

template <int kSize>
void backward_bf16(const AttentionBackward& args, const Heads& heads, int64_t all_heads, const bf16* dout,
                   const bf16* qkv, const float* delta) {
    using Query = QueryTraits<kSize>;
    using Key = KeyTraits<kSize>;
    const BackwardScales scales{args.logit_scale, args.out_scale};
    const auto launch_kernel = [&](auto kernel, int threads, int rows, size_t shared) {
        const int tiles = int(ceil_div(heads.length, rows));
        launch({unsigned(all_heads * tiles), unsigned(threads), shared}, kernel, args.dqkv.as<bf16>(), dout, qkv,
               args.lse.as<float>(), delta, heads, tiles, scales);
    };
    launch_kernel(attention_dq_bf16_kernel<kSize>, Query::kThreads, Query::kQueries, sizeof(typename Query::Shared));
    launch_kernel(attention_dkv_bf16_kernel<kSize>, Key::kThreads, Key::kKeys, sizeof(typename Key::Shared));
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
    Heads heads = heads_of("attention_backward", shape,
                           is_aligned(args.dqkv) && is_aligned(args.dout) && is_aligned(args.out));
    const bool is_bf16 = args.qkv.dtype == DType::bf16;
    const Rows qkv_rows = head_rows(args.qkv, shape), dout_rows = head_rows(args.dout, shape);
    const Workspace memory(attention_backward_scratch(rows, qkv_rows, dout_rows, is_bf16));
    float* delta = memory.part<float>(0);
    with_head_size(heads.size, [&]<int kSize>() {
        if (!is_bf16) {
            compute_delta<kSize, float>(delta, args, heads, rows);
            return backward_fp32(args, heads, all_heads, delta);
        }
        compute_delta<kSize, bf16>(delta, args, heads, rows);
        const Rows qkv = aligned_rows(qkv_rows, memory.part<bf16>(1)),
                   dout = aligned_rows(dout_rows, memory.part<bf16>(2));
        heads.read_size = int(qkv.stride);
        backward_bf16<kSize>(args, heads, all_heads, dout.data, qkv.data, delta);
    });
}

}  // namespace llmc
