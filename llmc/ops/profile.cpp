#include "llmc/ops/profile.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "llmc/core/error.h"
#include "llmc/ops/device.h"

namespace llmc {
namespace {

std::vector<Profile::Entry>& all() {
    static std::vector<Profile::Entry> entries;
    return entries;
}

double bytes_of(std::initializer_list<Tensor> tensors) {
    double sum = 0;
    for (const Tensor& t : tensors)
        if (t) sum += double(t.bytes());
    return sum;
}

// Rows that the tokens of a batch pick from a table.
double picked(const Tensor& tokens, const Tensor& row_of) {
    return double(tokens.numel() * row_of.last()) * double(size_of(row_of.dtype));
}

}  // namespace

Cost cost(const EmbeddingForward& a) {
    return {str("embedding_forward ", a.out.rows(), " x ", a.out.last()), 0,
            bytes_of({a.out}) + picked(a.tokens, a.wte) + double(a.tokens.last() * a.wpe.last() * 4)};
}
Cost cost(const EmbeddingBackward& a) {
    return {str("embedding_backward ", a.dout.rows(), " x ", a.dout.last()), 0,
            bytes_of({a.dout}) + 2 * picked(a.tokens, a.dwte)};
}
Cost cost(const LayerNormForward& a) {
    return {str("layernorm_forward ", a.inp.rows(), " x ", a.inp.last()), 0, bytes_of({a.out, a.inp})};
}
Cost cost(const LayerNormBackward& a) {
    return {str("layernorm_backward ", a.inp.rows(), " x ", a.inp.last()), 0,
            bytes_of({a.dinp, a.dout, a.inp, a.dskip})};
}
Cost cost(const MatmulForward& a) {
    const double N = double(a.inp.rows()), C = double(a.inp.last()), OC = double(a.weight.rows());
    return {str("matmul_forward ", a.inp.rows(), " x ", a.inp.last(), " -> ", a.weight.rows(),
                a.pre_gelu   ? ", gelu"
                : a.residual ? ", residual"
                             : ""),
            2 * N * C * OC, bytes_of({a.out, a.inp, a.weight, a.pre_gelu, a.residual})};
}
Cost cost(const MatmulBackward& a) {
    const int64_t N = a.dout.rows(), OC = a.dout.last(), C = a.weight ? a.weight.last() : a.inp.last();
    const double products = double(bool(a.dinp)) + double(bool(a.dweight));
    return {str("matmul_backward ", N, " x ", C, " -> ", OC, a.pre_gelu ? ", gelu" : ""),
            2 * products * double(N) * double(C) * double(OC),
            bytes_of({a.dinp, a.dweight, a.dweight, a.dout, a.inp, a.weight, a.pre_gelu})};
}
Cost cost(const AttentionForward& a) {
    const double B = double(a.out.shape[0]), T = double(a.out.shape[1]), C = double(a.out.shape[2]);
    return {str("attention_forward ", a.out.shape[0], " x ", a.out.shape[1], " x ", a.out.shape[2]), 2 * B * T * T * C,
            bytes_of({a.out, a.qkv})};
}
Cost cost(const AttentionBackward& a) {
    const double B = double(a.out.shape[0]), T = double(a.out.shape[1]), C = double(a.out.shape[2]);
    return {str("attention_backward ", a.out.shape[0], " x ", a.out.shape[1], " x ", a.out.shape[2]), 5 * B * T * T * C,
            bytes_of({a.dqkv, a.dout, a.out, a.qkv})};
}
Cost cost(const GeluForward& a) { return {str("gelu_forward ", a.out.numel()), 0, bytes_of({a.out, a.inp})}; }
Cost cost(const Classifier& a) {
    return {str("classifier ", a.logits.rows(), " x ", a.vocab_size), 0, (a.dloss != 0 ? 2 : 1) * bytes_of({a.logits})};
}
Cost cost(const Sum& a) { return {"accumulate_sum", 0, bytes_of({a.inp})}; }

void Profile::measure(const Cost& cost, const std::function<void()>& work) {
    device::synchronize();
    const auto begin = std::chrono::steady_clock::now();
    work();
    device::synchronize();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    auto found = std::find_if(all().begin(), all().end(), [&](const Entry& e) { return e.op == cost.op; });
    if (found == all().end()) found = all().insert(all().end(), Entry{cost.op, 0, 0, 0, 0});
    found->calls++;
    found->seconds += seconds, found->flops += cost.flops, found->bytes += cost.bytes;
}

std::vector<Profile::Entry> Profile::entries() {
    std::vector<Entry> sorted = all();
    std::sort(sorted.begin(), sorted.end(), [](const Entry& a, const Entry& b) { return a.seconds > b.seconds; });
    return sorted;
}

std::string Profile::table(int64_t steps, double seconds) {
    char line[160];
    std::string out = "profile of " + std::to_string(steps) + " steps, each op by itself\n";
    std::snprintf(line, sizeof line, "  %-44s %7s %10s %7s %9s %8s\n", "op", "calls", "ms/step", "share", "GFLOP/s",
                  "GB/s");
    out += line;
    double measured = 0;
    for (const Entry& e : entries()) {
        measured += e.seconds;
        std::snprintf(line, sizeof line, "  %-44s %7.1f %10.3f %6.1f%% %9s %8.1f\n", e.op.c_str(),
                      double(e.calls) / double(steps), 1e3 * e.seconds / double(steps), 100 * e.seconds / seconds,
                      e.flops > 0 ? std::to_string(int64_t(e.flops / e.seconds / 1e9)).c_str() : "-",
                      e.bytes / e.seconds / 1e9);
        out += line;
    }
    std::snprintf(line, sizeof line, "  %-44s %7s %10.3f %6.1f%%\n", "the rest (data, zeroing, the loss to the host)",
                  "", 1e3 * (seconds - measured) / double(steps), 100 * (seconds - measured) / seconds);
    return out + line;
}

}  // namespace llmc
