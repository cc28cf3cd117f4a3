#include "llmc/train/describe.h"

#include <cstdio>

#include "llmc/core/error.h"
#include "llmc/core/threads.h"
#include "llmc/train/optimizer.h"

namespace llmc {
namespace {

struct MemoryNeeds {
    GPT2::Memory model;
    size_t optimizer;
    size_t total() const { return model.parameters + model.gradients + model.activations + optimizer; }
};
MemoryNeeds memory_needs(const Setup& s) {
    return {GPT2::memory(s.shape, gpt2_options(s.config)),
            Optimizer::state_bytes(s.shape, s.config.optimizer.kind, s.config.model.dtype)};
}

std::string with_commas(int64_t n) {
    std::string digits = std::to_string(n);
    for (int i = int(digits.size()) - 3; i > 0; i -= 3) digits.insert(size_t(i), ",");
    return digits;
}

}  // namespace

GPT2Options checked_memory(const Setup& s) {
    GPT2Options options = gpt2_options(s.config);
    const MemoryNeeds needs = memory_needs(s);
    const size_t available = device::memory_available();
    if (needs.total() <= available) return options;
    const double GiB = 1 << 30;
    const auto batch = [&](Recompute recompute) {
        options.recompute = recompute;
        return GPT2::batch_that_fits(s.shape, options, needs.optimizer, available);
    };
    const int now = batch(options.recompute), most = batch(Recompute::block);
    char text[512];
    std::snprintf(text, sizeof text, "out of memory: --batch-size %d needs %.2f GiB, %s has %.2f GiB available; ",
                  s.config.run.batch_size, double(needs.total()) / GiB, device::backend().c_str(),
                  double(available) / GiB);
    std::string advice = now > 0 ? str("--batch-size ", now, " fits") : "not even --batch-size 1 fits";
    if (most > now) advice += str(now > 0 ? ", or " : ", but ", most, " with --recompute block");
    if (most == 0) advice += ": choose a smaller model, a shorter --seq-len, or --dtype bf16";
    fail(text, advice);
}

std::string describe(const Setup& s) {
    const Config& c = s.config;
    int64_t count = 0;
    for (const TensorSpec& spec : tensor_specs(s.shape)) count += spec.count();
    const MemoryNeeds needs = memory_needs(s);
    const size_t available = device::memory_available();
    const double MiB = 1 << 20;
    char text[2048];
    int used = std::snprintf(
        text, sizeof text,
        "device  %s, %s\n"
        "model   depth %d, width %d, heads %d x %d, positions %d, vocabulary %d (padded %d), head %s: %s parameters\n"
        "memory  %.1f MiB: parameters %.1f, gradients %.1f, optimizer %.1f, activations %.1f (of %.0f MiB; batch size "
        "%d fits)\n",
        device::name().c_str(), name_of(c.model.dtype), s.shape.depth, s.shape.width, s.shape.heads, s.shape.head_dim(),
        s.shape.max_seq_len, s.shape.vocab_size, s.shape.padded_vocab(), s.shape.tie_embeddings ? "tied" : "untied",
        with_commas(count).c_str(), double(needs.total()) / MiB, double(needs.model.parameters) / MiB,
        double(needs.model.gradients) / MiB, double(needs.optimizer) / MiB, double(needs.model.activations) / MiB,
        double(available) / MiB, GPT2::batch_that_fits(s.shape, gpt2_options(c), needs.optimizer, available));
    std::string out(text, size_t(used));
    if (s.train)
        out += str("data    ", with_commas(s.train->tokens()), " training tokens in ", s.train->shards().size(),
                   " shard(s), tokenizer ", s.tokenizer,
                   s.val ? str("; ", with_commas(s.val->tokens()), " validation tokens") : "; no validation data",
                   "\n");
    out += str("run     ", with_commas(s.steps), " steps of ", with_commas(c.run.total_batch_size), " tokens (",
               c.micro_steps(), " x ", c.run.batch_size, " x ", c.model.seq_len,
               ") = ", with_commas(s.steps * c.run.total_batch_size), " tokens");
    if (s.train) {
        const int64_t sequences = s.steps * c.run.total_batch_size / c.model.seq_len;
        std::snprintf(text, sizeof text, " = %.2f epochs", double(sequences) / double(s.train->windows()));
        out += text;
    }
    std::snprintf(text, sizeof text, ", %.3g FLOPs\n",
                  GPT2::flops_per_token(s.shape, c.model.seq_len) * double(s.steps) * double(c.run.total_batch_size));
    out += text;
    if (const std::string warning = threads_warning(); !warning.empty()) out += "note    " + warning + "\n";
    for (const std::string& note : s.notes) out += "note    " + note + "\n";
    return out;
}

}  // namespace llmc
