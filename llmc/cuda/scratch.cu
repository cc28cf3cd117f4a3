// What the ops of a training step need as scratch memory, from the sizes that their Workspaces have (scratch.h).
#include "llmc/cuda/scratch.h"

#include "llmc/cuda/tensor_list.h"
#include "llmc/ops/device.h"

namespace llmc::cuda {
namespace {

class Largest {
public:
    explicit Largest(DType dtype) : is_bf16_(dtype == DType::bf16) {}
    void add(const ScratchParts& parts) { bytes = std::max(bytes, total_bytes(parts)); }

    // A linear layer from C to OC channels: inp, weight and dout, two of which each of its products has, and its bias
    // gradient.
    void add_linear(int64_t N, int64_t C, int64_t OC) {
        const Rows inp{nullptr, N, C}, weight{nullptr, OC, C}, dout{nullptr, N, OC};
        if (is_bf16_) {
            add(padding_scratch(inp, weight));
            add(padding_scratch(dout, weight));
            add(padding_scratch(dout, inp));
        } else {
            add(column_sum_scratch(N, OC));  // in bf16 a by-product
        }
    }

    size_t bytes = 0;

private:
    bool is_bf16_;
};

}  // namespace
}  // namespace llmc::cuda

namespace llmc::device {

size_t scratch_bytes(const StepSizes& s) {
    using namespace cuda;
    const int64_t C = s.width, head_size = C / s.heads;
    const bool is_bf16 = s.dtype == DType::bf16;
    Largest most(s.dtype);
    // A batch may be smaller than this, with other plans: the last of a shard, or one sequence.
    for (int64_t batch = s.batch; batch >= 1; batch /= 2) {
        const int64_t N = batch * s.seq_len, rows = N * s.heads;
        most.add_linear(N, C, 3 * C);
        most.add_linear(N, C, C);
        most.add_linear(N, C, 4 * C);
        most.add_linear(N, 4 * C, C);
        most.add_linear(std::min(N, s.logits_rows), C, s.padded_vocab);
        most.add_linear(std::max<int64_t>(N % std::min(N, s.logits_rows), 1), C, s.padded_vocab);  // the last chunk
        most.add(layernorm_scratch(N, C));
        most.add(embedding_scratch(N, C));
        most.add(attention_backward_scratch(rows, {nullptr, 3 * rows, head_size}, {nullptr, rows, head_size}, is_bf16));
    }
    // The gradient norm: a float for every block of a tensor, and lists of the tensors, here and in the optimizer.
    constexpr size_t kEntry = 128;  // bytes, at most
    most.add({size_t(s.parameters / kListBlock + s.tensors) * sizeof(float), size_t(s.tensors) * kEntry});
    return most.bytes;
}

}  // namespace llmc::device
