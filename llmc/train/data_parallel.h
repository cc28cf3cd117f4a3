// Several processes that train one model: each computes the gradients of its own sequences, and their sums are exchanged
// while the backward pass goes on. Stage 1 of ZeRO (Rajbhandari et al., arXiv 1910.02054): each has a part of the
// optimizer's state, updates its part of the weights, and gets the other parts from the others.
#pragma once
#include <string>
#include <vector>

#include "llmc/comm/group.h"
#include "llmc/gpt2/gpt2.h"
#include "llmc/train/optimizer.h"

namespace llmc {

// Bytes of gradients that are exchanged together: large enough that the start of an operation does not matter, small
// enough that most of them are exchanged while others are computed. The variable LLMC_EXCHANGED_BYTES, or 8 MiB. Usage
// error for another value than a positive number.
size_t exchanged_bytes();

// The elements whose state rank `rank` has: its part of each range of gradients under stage 1, otherwise none, which
// means all.
std::vector<ElementRange> owned_elements(const GPT2& model, int zero_stage, int rank, int ranks);

class DataParallel {
public:
    DataParallel(Group& group, GPT2& model, Optimizer& optimizer, int zero_stage)
        : group_(group), comm_(group.comm()), model_(model), optimizer_(optimizer), zero_stage_(zero_stage) {}

    int rank() const { return comm_.rank(); }
    int size() const { return comm_.size(); }
    Group& group() { return group_; }

    // The gradients of model.gradient_parts()[part] are complete on this rank: starts their sum.
    void exchange(size_t part);
    void finish_exchange();

    // What all ranks have to know of a step, after compute_grad_norm(). Sets the optimizer's norm under stage 1.
    struct Step {
        double loss, grad_norm;  // of the whole batch
        int signal;              // that any rank received; 0: none
        bool save;               // rank 0 wants a checkpoint
    };
    Step agree(double loss, int signal, bool save);
    int agree_on_signal(int signal);

    void share_weights();  // stage 1, after the update

    // The sum over ranks, in the order of ranks.
    std::vector<double> sum(const std::vector<double>& own);
    // If a rank has a problem, an Error on all; on the others an ElsewhereError.
    void check_all(const std::string& problem);
    // The whole of a state tensor on the host of rank `root`, which gets it; others get nothing.
    std::vector<float> collect(const Optimizer::State& state, int root);

    Comm::Times times() { return comm_.times(); }

private:
    std::vector<ElementRange> parts(size_t part) const {
        return parts_of(model_.gradient_parts()[part].range.count, size());
    }
    Group& group_;
    Comm& comm_;
    GPT2& model_;
    Optimizer& optimizer_;
    int zero_stage_;
    std::vector<int64_t> running_;
    device::Buffer collected_;
};

}  // namespace llmc
