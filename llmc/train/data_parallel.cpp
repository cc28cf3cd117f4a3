#include "llmc/train/data_parallel.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "llmc/core/error.h"

namespace llmc {

size_t exchanged_bytes() {
    const char* text = std::getenv("LLMC_EXCHANGED_BYTES");
    if (!text || !*text) return size_t{8} << 20;
    size_t bytes = 0;
    const std::string_view all = text;
    const auto [end, problem] = std::from_chars(all.data(), all.data() + all.size(), bytes);
    if (problem != std::errc() || end != all.data() + all.size() || bytes == 0)
        fail_usage("the variable LLMC_EXCHANGED_BYTES is '", all,
                   "': give the bytes of gradients that are exchanged together, or unset it");
    return bytes;
}

std::vector<ElementRange> owned_elements(const GPT2& model, int zero_stage, int rank, int ranks) {
    if (zero_stage == 0 || ranks == 1) return {};
    std::vector<ElementRange> owned;
    for (const Parameters::Part& part : model.gradient_parts()) {
        const ElementRange own = parts_of(part.range.count, ranks)[size_t(rank)];
        owned.push_back({part.range.begin + own.begin, own.count});
    }
    return owned;
}

void DataParallel::exchange(size_t part) {
    const Tensor gradients = model_.parameters.grads(model_.gradient_parts()[part].range);
    running_.push_back(zero_stage_ == 0 ? comm_.all_reduce(gradients) : comm_.reduce_scatter(gradients, parts(part)));
}

void DataParallel::finish_exchange() {
    for (int64_t handle : running_) comm_.wait(handle);
    running_.clear();
}

// Under stage 0 all ranks have the same gradients, so the same norm, to the bit: another one means that they computed
// different sums, and their weights would drift apart.
DataParallel::Step DataParallel::agree(double loss, int signal, bool save) {
    const double norm = optimizer_.grad_norm();
    const double own[] = {loss, norm, double(signal), double(save)};
    const std::vector<double> all = comm_.gather(own);
    Step step{0, norm, 0, all[3] != 0};
    double squares = 0;
    for (size_t r = 0; r < size_t(size()); ++r) {
        step.loss += all[4 * r];
        squares += all[4 * r + 1] * all[4 * r + 1];
        if (step.signal == 0) step.signal = int(all[4 * r + 2]);
        const bool same = all[4 * r + 1] == all[1] || (std::isnan(all[4 * r + 1]) && std::isnan(all[1]));
        if (zero_stage_ == 0 && !same)
            fail("the ranks disagree: the gradient norm of rank ", r, " on ", group_.hosts()[r], " is ", all[4 * r + 1],
                 ", that of rank 0 on ", group_.hosts()[0], " is ", all[1], ": one of them computes wrongly");
    }
    if (zero_stage_ >= 1) {
        step.grad_norm = std::sqrt(squares);
        optimizer_.set_grad_norm(float(step.grad_norm));
    }
    return step;
}

int DataParallel::agree_on_signal(int signal) {
    const double own[] = {double(signal)};
    for (double theirs : comm_.gather(own))
        if (theirs != 0) return int(theirs);
    return 0;
}

void DataParallel::share_weights() {
    if (zero_stage_ == 0) return;
    for (size_t i = 0; i < model_.gradient_parts().size(); ++i)
        running_.push_back(comm_.all_gather(model_.parameters.values(model_.gradient_parts()[i].range), parts(i)));
    finish_exchange();
}

std::vector<double> DataParallel::sum(const std::vector<double>& own) {
    const std::vector<double> all = comm_.gather(own);
    std::vector<double> out(own.size(), 0.0);
    for (size_t i = 0; i < all.size(); ++i) out[i % own.size()] += all[i];
    return out;
}

void DataParallel::check_all(const std::string& problem) {
    device::synchronize();  // others may wait for an operation that is only enqueued here
    const std::vector<std::string> all = group_.control().all_gather(problem);
    if (!problem.empty()) fail(problem);
    for (const std::string& theirs : all)
        if (!theirs.empty()) throw ElsewhereError(theirs);
}

std::vector<float> DataParallel::collect(const Optimizer::State& state, int root) {
    const Parameter& p = *state.parameter;
    const auto download_here = [&](Tensor whole) {
        return rank() == root ? download(whole, p.spec.count()) : std::vector<float>();
    };
    if (zero_stage_ == 0) return download_here(state.value);
    // The parts of the range of gradients that the parameter is in, as far as they are in the parameter.
    std::vector<ElementRange> own_parts;
    for (size_t i = 0; i < model_.gradient_parts().size(); ++i) {
        const ElementRange range = model_.gradient_parts()[i].range;
        if (p.offset < range.begin || p.offset >= range.end()) continue;
        for (const ElementRange& part : parts(i)) {
            const int64_t begin = std::clamp(range.begin + part.begin - p.offset, int64_t{0}, p.grad.numel()),
                          end = std::clamp(range.begin + part.begin + part.count - p.offset, int64_t{0},
                                           p.grad.numel());
            own_parts.push_back({begin, end - begin});
        }
    }
    const size_t bytes = size_t(p.grad.numel()) * sizeof(float);
    if (collected_.bytes() < bytes) collected_ = device::Buffer(bytes);
    const Tensor whole(collected_.data(), DType::f32, {p.grad.numel()});
    if (state.value.numel() > 0) cast(whole.slice(state.first, state.value.numel()), state.value);
    comm_.wait(comm_.gather_to(whole, own_parts, root));
    return download_here(whole);
}

}  // namespace llmc
