// AdamW or SGD over the model's named tensors, each with the learning rate, decay and epsilon of its rule.
#pragma once
#include <vector>
#include "llmc/gpt2/gpt2.h"
#include "llmc/mup/mup_options.h"

namespace llmc {

// How bf16 weights are rounded from their fp32 masters.
enum class Rounding { nearest, stochastic };
template <>
struct Names<Rounding> {
    static constexpr std::pair<const char*, Rounding> list[] = {{"nearest", Rounding::nearest},
                                                                {"stochastic", Rounding::stochastic}};
};

class Optimizer {
public:
    // `seed`: for stochastic rounding. options.grad_clip must be resolved.
    Optimizer(GPT2& model, const OptimizerOptions& options, Rounding rounding, uint64_t seed);

    void compute_grad_norm();  // global norm of the accumulated gradients, into device memory
    float grad_norm();         // the last one; waits for the device
    // One update with all learning rates times `schedule` (lr_t / lr_peak). `step` counts updates from 1, for the bias
    // correction.
    void step(double schedule, int64_t step);

    // State tensors by name: "m.h.0.ln_1.weight", "v....", and "master...." for bf16 models. fp32, stored like the
    // parameter.
    struct State {
        std::string name;
        const Parameter* parameter;
        Tensor value;
    };
    const std::vector<State>& state() const { return state_; }
    void masters_from_parameters();  // call after setting weights: copies the model's values in fp32
    static size_t state_bytes(const ModelShape& shape, OptimizerKind kind, DType dtype);

private:
    GPT2& model_;
    OptimizerOptions options_;
    Rounding rounding_;
    uint64_t seed_;
    device::Buffer memory_;
    std::vector<State> state_;
    std::vector<ParameterUpdate> updates_;  // one per parameter; lr and decay are set at each step
    std::vector<Tensor> grads_;
    device::Buffer norm_;
};

}  // namespace llmc
