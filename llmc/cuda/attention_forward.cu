// Causal attention, forward: attention/forward_wgmma.h and attention/forward_bf16.h on tensor cores, attention/fp32.h.
#include "llmc/cuda/attention/dispatch.h"
#include "llmc/cuda/attention/forward_bf16.h"
#include "llmc/cuda/attention/forward_wgmma.h"
#include "llmc/cuda/attention/fp32_forward.h"

namespace llmc {

using namespace cuda;

void attention_forward(const AttentionForward& args) {
    const AttentionShape shape = check(args);
    if (shape.B * shape.T == 0) return;
    Heads heads = heads_of("attention_forward", shape, is_aligned(args.out));
    float* lse = args.lse.as<float>();
    const auto launch_kernel = [&](auto kernel, auto* out, const auto& qkv, int threads, int rows, size_t shared) {
        heads.first_tile = int(args.first_query / rows);
        const int tiles = int(ceil_div(shape.T, rows)) - heads.first_tile;
        if (tiles == 0) return;
        launch({unsigned(shape.B * shape.H * tiles), unsigned(threads), shared}, kernel, out, lse, qkv, heads, tiles,
               args.logit_scale, args.out_scale);
    };
    if (args.qkv.dtype == DType::f32)
        return launch_kernel(attention_forward_fp32_kernel, args.out.as<float>(), args.qkv.as<float>(),
                             kFp32AttentionThreads, kFp32Rows, sizeof(Fp32ForwardShared));
    const Rows rows = head_rows(args.qkv, shape);
    const Workspace memory({padding_bytes(rows)});
    const Rows qkv = aligned_rows(rows, memory.part<bf16>(0));
    heads.read_size = int(qkv.stride);
    with_head_size(heads.size, [&]<int kSize>() {
        if constexpr (kSize == 64 || kSize == 128) {
            using Traits = WgmmaForward<kSize>;
            if (heads.size == kSize && has_wgmma()) {
                const int64_t columns = 3 * shape.H * kSize;
                return launch_kernel(attention_forward_wgmma_kernel<kSize>, args.out.as<bf16>(),
                                     batch_map(qkv.data, shape.B, shape.T, columns, Traits::kTile), Traits::kThreads,
                                     Traits::kQueries, sizeof(typename Traits::Shared));
            }
        }
        using Traits = ForwardTraits<kSize>;
        launch_kernel(attention_forward_bf16_kernel<kSize>, args.out.as<bf16>(), qkv.data, Traits::kThreads,
                      Traits::kQueries, sizeof(typename Traits::Shared));
    });
}

}  // namespace llmc
