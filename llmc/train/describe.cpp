#include "llmc/train/describe.h"

#include <algorithm>
#include <cstdio>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/train/optimizer.h"

namespace llmc {
namespace {

int sharing_state(const Setup& s) { return s.config.processes.zero_stage >= 1 ? s.ranks : 1; }

struct MemoryNeeds {
    GPT2::Memory model;
    size_t optimizer;
    size_t total() const { return model.total() + optimizer; }
};
MemoryNeeds memory_needs(const Setup& s) {
    return {GPT2::memory(s.shape, gpt2_options(s.config)),
            Optimizer::state_bytes(s.shape, s.config.optimizer.kind, s.config.model.dtype, sharing_state(s))};
}

// The largest batch that fits with other options; 0: none.
int batch_with(const Setup& s, DType dtype, Recompute recompute, size_t available) {
    GPT2Options options = gpt2_options(s.config);
    options.dtype = dtype, options.recompute = recompute;
    const size_t state = Optimizer::state_bytes(s.shape, s.config.optimizer.kind, dtype, sharing_state(s));
    return GPT2::batch_that_fits(s.shape, options, state, available);
}

// The largest preset of which one sequence of the same length can be trained.
std::string preset_that_fits(const Setup& s, size_t available) {
    const Preset* best = nullptr;
    for (const Preset& p : presets()) {
        Setup smaller;
        smaller.config = s.config;
        smaller.shape = s.shape;
        smaller.shape.depth = p.depth, smaller.shape.width = p.width, smaller.shape.heads = p.heads;
        if (batch_with(smaller, s.config.model.dtype, s.config.model.recompute, available) > 0 &&
            (!best || p.depth * p.width * p.width > best->depth * best->width * best->width))
            best = &p;
    }
    return best ? str(" (--preset ", best->name, " fits)") : "";
}

// Which options make the run fit into memory.
std::string memory_advice(const Setup& s, size_t available) {
    const DType dtype = s.config.model.dtype;
    const Recompute recompute = s.config.model.recompute;
    const int now = batch_with(s, dtype, recompute, available);
    const MemoryNeeds needs = memory_needs(s);
    std::string advice = now > 0 ? str("--batch-size ", now, " fits")
                                 : "not even --batch-size 1 fits (parameters, gradients and optimizer alone need " +
                                       bytes_text(needs.total() - needs.model.activations) + ")";
    int most = now;
    const auto consider = [&](DType other, Recompute another, const char* options) {
        const int batch = batch_with(s, other, another, available);
        if (batch <= most) return;
        advice += str(most > now || now > 0 ? ", or " : ", but ", batch, " with ", options);
        most = batch;
    };
    consider(dtype, Recompute::block, "--recompute block");
    consider(DType::bf16, recompute, "--dtype bf16");
    consider(DType::bf16, Recompute::block, "--dtype bf16 --recompute block");
    if (most == 0) advice += ": choose a smaller model" + preset_that_fits(s, available) + " or a shorter --seq-len";
    return advice;
}

}  // namespace

GPT2Options checked_memory(const Setup& s) {
    const MemoryNeeds needs = memory_needs(s);
    const size_t available = device::memory_available();
    if (needs.total() > available)
        fail("out of memory: --batch-size ", s.config.run.batch_size, " needs ", bytes_text(needs.total()), ", ",
             device::backend(), " has ", bytes_text(available), " available; ", memory_advice(s, available));
    return gpt2_options(s.config);
}

std::string describe(const Setup& s) {
    const Config& c = s.config;
    int64_t count = 0;
    for (const TensorSpec& spec : tensor_specs(s.shape)) count += spec.count();
    const MemoryNeeds needs = memory_needs(s);
    const size_t available = device::memory_available();
    const int fits = GPT2::batch_that_fits(s.shape, gpt2_options(c), needs.optimizer, available);
    char text[2048];
    const std::string scratch = needs.model.scratch ? ", scratch " + bytes_text(needs.model.scratch) : "";
    int used = std::snprintf(
        text, sizeof text,
        "device  %s, %s\n"
        "model   depth %d, width %d, heads %d x %d, positions %d, vocabulary %d (padded %d), head %s: %s parameters\n"
        "memory  %s: parameters %s, gradients %s, optimizer %s, activations %s%s (of %s; %s)\n",
        device::name().c_str(), name_of(c.model.dtype), s.shape.depth, s.shape.width, s.shape.heads, s.shape.head_dim(),
        s.shape.max_seq_len, s.shape.vocab_size, s.shape.padded_vocab(), s.shape.tie_embeddings ? "tied" : "untied",
        with_commas(count).c_str(), bytes_text(needs.total()).c_str(), bytes_text(needs.model.parameters).c_str(),
        bytes_text(needs.model.gradients).c_str(), bytes_text(needs.optimizer).c_str(),
        bytes_text(needs.model.activations).c_str(), scratch.c_str(), bytes_text(available).c_str(),
        fits > 0 ? str("batch size ", fits, " fits").c_str() : "too little for any batch size");
    std::string out(text, size_t(used));
    if (s.train)
        out += str("data    ", with_commas(s.train->tokens()), " training tokens in ",
                   plural(int64_t(s.train->shards().size()), "shard"), ", tokenizer ", s.tokenizer,
                   s.val ? str("; ", with_commas(s.val->tokens()), " validation tokens") : "; no validation data",
                   "\n");
    if (!s.choices.empty())
        out += str("choices ", plural(int64_t(s.choices.size()), "example"), " of ", c.evaluation.hellaswag, "\n");
    // Steps before a --resume may have had another batch size.
    const int64_t to_do = std::max<int64_t>(0, s.steps - s.start.step), B = c.run.total_batch_size;
    const int64_t tokens = s.start.tokens + to_do * B;
    out += str("run     ", plural(s.steps, "step"), " of ", plural(B, "token"), " (", s.micro_steps(), " x ",
               c.run.batch_size, " x ", c.model.seq_len, s.ranks > 1 ? str(" x ", s.ranks, " processes") : "",
               ") = ", plural(tokens, "token"));
    if (s.start.tokens != s.start.step * B)
        out += str(" (", with_commas(s.start.tokens), " in the ", plural(s.start.step, "step"), " done)");
    if (s.train) {
        const int64_t sequences = s.start.samples + to_do * (B / c.model.seq_len);
        std::snprintf(text, sizeof text, " = %.2f epochs", double(sequences) / double(s.train->windows()));
        out += text;
    }
    std::snprintf(text, sizeof text, ", %.3g FLOPs\n",
                  GPT2::flops_per_token(s.shape, c.model.seq_len) * double(tokens));
    out += text;
    for (const std::string& warning : s.warnings) out += "warning " + warning + "\n";
    for (const std::string& note : s.notes) out += "note    " + note + "\n";
    return out;
}

}  // namespace llmc
