// Token and position embeddings: out[b,t,:] = scale * (wte[tokens[b,t],:] + wpe[t,:]).
#include "llmc/cpu/indices.h"
#include "llmc/cpu/kernels.h"
#include "llmc/cpu/parallel.h"
#include "llmc/ops/checks.h"

namespace llmc::cpu::LLMC_ISA {

void embedding_forward(const EmbeddingForward& args) {
    check(args);
    int64_t B = args.tokens.shape[0], T = args.tokens.shape[1], C = args.wte.last(), V = args.wte.shape[0];
    require_indices("embedding_forward", "tokens", args.tokens, V);
    with_type("embedding_forward", "wte", args.wte.dtype, [&]<class E>(E) {
        parallel_for(B * T, row_grain(C), [&](int64_t begin, int64_t end) {
            for (int64_t n = begin; n < end; ++n) {
                E* out = args.out.as<E>() + n * C;
                const E* token = args.wte.as<E>() + args.tokens.as<int32_t>()[n] * C;
                const E* position = args.wpe.as<E>() + n % T * C;
                float scale = args.scale;
#pragma omp simd
                for (int64_t c = 0; c < C; ++c)
                    out[c] = from_float<E>(scale * (to_float(token[c]) + to_float(position[c])));
            }
        });
    });
}

// Threads divide the channels, not the tokens: every element is summed by one thread in the order of positions, for any
// number of threads.
void embedding_backward(const EmbeddingBackward& args) {
    check(args);
    int64_t B = args.tokens.shape[0], T = args.tokens.shape[1], C = args.dout.last(), V = args.dwte.shape[0];
    require_indices("embedding_backward", "tokens", args.tokens, V);
    constexpr int64_t kBlock = 16;  // channels: one cache line of fp32
    with_type("embedding_backward", "dout", args.dout.dtype, [&]<class E>(E) {
        parallel_for((C + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
            int64_t first = begin * kBlock, last = std::min(end * kBlock, C);
            const float dwte_scale = args.dwte_scale, dwpe_scale = args.dwpe_scale;
            for (int64_t n = 0; n < B * T; ++n) {
                const E* dout = args.dout.as<E>() + n * C;
                float* token = args.dwte.as<float>() + args.tokens.as<int32_t>()[n] * C;
                float* position = args.dwpe.as<float>() + n % T * C;
#pragma omp simd
                for (int64_t c = first; c < last; ++c) {
                    const float d = to_float(dout[c]);
                    token[c] += dwte_scale * d;
                    position[c] += dwpe_scale * d;
                }
            }
        });
    });
}

}  // namespace llmc::cpu::LLMC_ISA
