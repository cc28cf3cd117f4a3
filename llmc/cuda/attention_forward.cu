// Causal attention, forward: attention/forward_bf16.h on tensor cores, attention/fp32.h.
#include "llmc/cuda/attention/dispatch.h"
#include "llmc/cuda/attention/forward_bf16.h"
#include "llmc/cuda/attention/fp32_forward.h"

namespace llmc {

using namespace cuda;

void attention_forward(const AttentionForward& args) {
    const AttentionShape shape = check(args);
    if (shape.B * shape.T == 0) return;
    const Heads heads = heads_of("attention_forward", shape, is_aligned(args.out) && is_aligned(args.qkv));
    float* lse = args.lse.as<float>();
    const auto launch_kernel = [&](auto kernel, auto* out, const auto* qkv, int threads, int rows, size_t shared) {
        const int tiles = int(ceil_div(shape.T, rows));
        launch({unsigned(shape.B * shape.H * tiles), unsigned(threads), shared}, kernel, out, lse, qkv, heads, tiles,
               args.logit_scale, args.out_scale);
    };
    if (args.qkv.dtype == DType::f32)
        return launch_kernel(attention_forward_fp32_kernel, args.out.as<float>(), args.qkv.as<float>(),
                             kFp32AttentionThreads, kFp32Rows, sizeof(Fp32ForwardShared));
    with_head_size(heads.size, [&]<int kSize>() {
        using Traits = ForwardTraits<kSize>;
        launch_kernel(
            heads.aligned ? attention_forward_bf16_kernel<kSize, true> : attention_forward_bf16_kernel<kSize, false>,
            args.out.as<bf16>(), args.qkv.as<bf16>(), Traits::kThreads, Traits::kQueries,
            sizeof(typename Traits::Shared));
    });
}

}  // namespace llmc
