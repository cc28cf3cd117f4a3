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
    // `seed`: for stochastic rounding. options.grad_clip must be resolved. `owned`: the elements that this optimizer
    // updates and has the state of, starting at multiples of 4; none given: all.
    Optimizer(GPT2& model, const OptimizerOptions& options, Rounding rounding, uint64_t seed,
              const std::vector<ElementRange>& owned = {});

    void compute_grad_norm();     // norm of the accumulated gradients of its elements, into device memory
    float grad_norm();            // the last one; waits for the device
    void set_grad_norm(float x);  // of all elements, where others compute parts of it
    // One update with all learning rates times `schedule` (lr_t / lr_peak). `step` counts updates from 1, for the bias
    // correction.
    void step(double schedule, int64_t step);

    // State tensors by name: "m.h.0.ln_1.weight", "v....", and "master...." for bf16 models. fp32, stored like the
    // parameter. One for every parameter; `value` has the elements [first, first + value.numel()) of it, maybe none.
    struct State {
        std::string name;
        const Parameter* parameter;
        Tensor value;
        int64_t first = 0;
    };
    const std::vector<State>& state() const { return state_; }
    void masters_from_parameters();  // call after setting weights: copies the model's values in fp32
    // ranks: that share the state; bytes of one of them.
    static size_t state_bytes(const ModelShape& shape, OptimizerKind kind, DType dtype, int ranks = 1);

private:
    GPT2& model_;
    OptimizerOptions options_;
    Rounding rounding_;
    uint64_t seed_;
    device::Buffer memory_;
    std::vector<State> state_;
    std::vector<const Parameter*> updated_;
    std::vector<ParameterUpdate> updates_;  // one for each of these; lr and decay are set at each step
    std::vector<Tensor> grads_;
    device::Buffer norm_;
};

}  // namespace llmc
