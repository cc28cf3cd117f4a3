// The inputs of attention's softmax, for coordinate checks. A simple kernel, one thread for each logit: it is not a
// part of training. Formula: llmc/ops/ops.h.
#include "llmc/cuda/gpu.h"
#include "llmc/cuda/host.h"
#include "llmc/cuda/vec.h"
#include "llmc/ops/checks.h"
#include "llmc/ops/ops.h"

namespace llmc {
namespace cuda {
namespace {

constexpr int kThreads = 128;

template <class T>
__global__ void __launch_bounds__(kThreads)
    attention_logits_kernel(float* out, const T* qkv, int heads, int length, int size, float logit_scale) {
    launch_bounds<kThreads>();
    const int64_t row = blockIdx.x, i = row % length, head = row / length, b = head / heads, C = int64_t(heads) * size;
    const T* q = qkv + (b * length + i) * 3 * C + (head % heads) * size;
    const T* k = qkv + b * length * 3 * C + C + (head % heads) * size;
    out += head * (int64_t(length) * (length + 1) / 2) + i * (i + 1) / 2;
    for (int64_t j = threadIdx.x; j <= i; j += kThreads) {
        float sum = 0;
        for (int d = 0; d < size; ++d) sum += to_float(q[d]) * to_float(k[j * 3 * C + d]);
        out[j] = logit_scale * sum;
    }
}

}  // namespace
}  // namespace cuda

using namespace cuda;

void attention_logits(const AttentionLogits& args) {
    const AttentionShape s = check(args);
    if (s.B * s.T == 0) return;
    with_type("attention_logits", "qkv", args.qkv.dtype, [&]<class T>(T) {
        launch({unsigned(s.B * s.H * s.T), kThreads}, attention_logits_kernel<T>, args.out.as<float>(),
               args.qkv.as<T>(), int(s.H), int(s.T), int(s.D), args.logit_scale);
    });
}

}  // namespace llmc
