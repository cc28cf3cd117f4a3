// Causal attention, backward: delta, then attention/backward_wgmma.h or backward_bf16.h on tensor cores, or
// attention/fp32_backward.h.
#include "llmc/cuda/attention/backward_bf16.h"
#include "llmc/cuda/attention/backward_wgmma.h"
#include "llmc/cuda/attention/delta.h"
#include "llmc/cuda/attention/dispatch.h"
#include "llmc/cuda/attention/fp32_backward.h"
#include "llmc/cuda/scratch.h"

namespace llmc {

using namespace cuda;

namespace {

template <int kSize, class T>
void compute_delta(float* delta, uint32_t* counters, int64_t counter_count, const AttentionBackward& args,
                   const Heads& heads, int64_t rows) {
    const int64_t threads = rows * (kSize / kVec);
    launch({unsigned(ceil_div(std::max(threads, counter_count), 256)), 256}, attention_delta_kernel<kSize, T>, delta,
           counters, counter_count, args.dout.as<T>(), args.out.as<T>(), heads, rows);
}

template <int kSize, bool kLarge>
void backward_bf16(const AttentionBackward& args, const Heads& heads, const BackwardMemory& memory, int64_t all_heads,
                   float* sums, uint32_t* counters, const bf16* dout, const bf16* qkv, const float* delta) {
    using Traits = BackwardTraits<kSize, kLarge>;
    launch({unsigned(all_heads * memory.tiles), unsigned(Traits::kThreads), sizeof(typename Traits::Shared)},
           attention_backward_bf16_kernel<kSize, kLarge>, args.dqkv.as<bf16>(), sums, counters, dout, qkv,
           args.lse.as<float>(), delta, heads, memory.tiles, int(memory.slots),
           BackwardScales{args.logit_scale, args.out_scale});
}

void backward_wgmma(const AttentionBackward& args, const Heads& heads, const BackwardMemory& memory, int64_t all_heads,
                    float* sums, uint32_t* counters, const bf16* dout, const bf16* qkv, const float* delta) {
    using Traits = WgmmaBackward;
    const int64_t sequences = all_heads / heads.heads, columns = int64_t(heads.heads) * Traits::kSize;
    launch({unsigned(all_heads * memory.tiles), unsigned(Traits::kThreads), sizeof(Traits::Shared)},
           attention_backward_wgmma_kernel, args.dqkv.as<bf16>(), sums, counters,
           batch_map(qkv, sequences, heads.length, 3 * columns, Traits::kTile),
           batch_map(dout, sequences, heads.length, columns, Traits::kTile), args.lse.as<float>(), delta, heads,
           memory.tiles, int(memory.slots), BackwardScales{args.logit_scale, args.out_scale});
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
    const Workspace memory(attention_backward_scratch(all_heads, shape.T, qkv_rows, dout_rows, is_bf16));
    float* delta = memory.part<float>(0);
    with_head_size(heads.size, [&]<int kSize>() {
        if (!is_bf16) {
            compute_delta<kSize, float>(delta, nullptr, 0, args, heads, rows);
            return backward_fp32(args, heads, all_heads, delta);
        }
        const BackwardMemory shapes = backward_memory(all_heads, shape.T, shape.D);
        float* sums = memory.part<float>(3);
        uint32_t* counters = memory.part<uint32_t>(4);
        compute_delta<kSize, bf16>(delta, counters, shapes.counters, args, heads, rows);
        const Rows qkv = aligned_rows(qkv_rows, memory.part<bf16>(1)),
                   dout = aligned_rows(dout_rows, memory.part<bf16>(2));
        heads.read_size = int(qkv.stride);
        if (heads.size == WgmmaBackward::kSize && has_wgmma())
            return backward_wgmma(args, heads, shapes, all_heads, sums, counters, dout.data, qkv.data, delta);
        const auto run = [&]<bool kLarge>() {
            backward_bf16<kSize, kLarge>(args, heads, shapes, all_heads, sums, counters, dout.data, qkv.data, delta);
        };
        if (kSize <= 64 || sizeof(typename BackwardTraits<kSize, true>::Shared) <= shared_limit())
            run.template operator()<true>();
        else
            run.template operator()<(kSize <= 64)>();
    });
}

}  // namespace llmc
