#include "llmc/train/setup.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "llmc/core/error.h"

namespace llmc {
namespace {

namespace fs = std::filesystem;

constexpr int kGpt2Vocabulary = 50257;

void agree(bool given, const char* option, int64_t wanted, int64_t has, const std::string& path) {
    if (given && wanted != has)
        fail_data(option, " ", wanted, " does not fit the checkpoint ", path, ", which has ", has,
                  ": leave the option out, or choose another checkpoint");
}

// The checkpoint's shape is the model's; options that were given must agree with it.
void take_shape(Setup& s, const CommandLine& line) {
    Config& c = s.config;
    ModelShape& shape = s.weights->shape;
    const std::string& path = s.weights->path;
    agree(line.depth_given, "--depth", c.depth, shape.depth, path);
    agree(line.width_given, "--width", c.width, shape.channels, path);
    if (!s.weights->heads_known && line.heads_given) shape.heads = c.heads;
    agree(line.heads_given, "--heads", c.heads, shape.heads, path);
    agree(line.vocab_size_given, "--vocab-size", c.vocab_size, shape.vocab_size, path);
    agree(c.tie_embeddings.has_value(), "--tie-embeddings", c.tie_embeddings.value_or(false), shape.tie_embeddings,
          path);
    if (shape.channels % shape.heads)
        fail_data(path, " has ", shape.channels, " channels, which ", shape.heads,
                  " heads do not divide: give --heads");
    c.depth = shape.depth, c.width = shape.channels, c.heads = shape.heads, c.vocab_size = shape.vocab_size,
    c.tie_embeddings = shape.tie_embeddings;
    if (!line.seq_len_given) c.seq_len = shape.max_seq_len;
    if (c.seq_len > shape.max_seq_len)
        fail_data("--seq-len ", c.seq_len, " is longer than the ", shape.max_seq_len, " learned positions of ", path,
                  ": shorten it");
    s.shape = shape;
}

bool is_one_of(const std::string& key, std::initializer_list<const char*> list) {
    return std::find(list.begin(), list.end(), key) != list.end();
}

// What a resumed run must have in common with its checkpoint; other options may change, and are named.
void compare_with_checkpoint(Setup& s) {
    const nlohmann::ordered_json now = to_json(s.config);
    const nlohmann::json& then = s.weights->config;
    for (auto& [key, value] : now.items()) {
        if (!then.is_object() || !then.contains(key) || then.at(key) == value) continue;
        if (is_one_of(key, {"optimizer", "dtype", "seq_len", "parametrization"}))
            fail_data("--resume: the checkpoint ", *s.resume_from, " has ", key, " = ", then.at(key).dump(),
                      ", this run ", value.dump(), ": give the same, or start a new run with --init and another --out");
        if (!is_one_of(key, {"resume", "overwrite", "out", "init", "threads"}))
            s.changed.push_back(str(key, ": ", then.at(key).dump(), " -> ", value.dump()));
    }
    if (s.weights->step > s.steps)
        fail_usage("--resume: the checkpoint is at step ", s.weights->step, ", beyond the ", s.steps,
                   " steps asked for: raise --steps");
}

void open_data(Setup& s, bool required) {
    Config& c = s.config;
    if (!c.train_data.empty() || required) s.train = std::make_unique<Dataset>(c.train_data, "--train-data", c.seq_len);
    if (!c.val_data.empty()) s.val = std::make_unique<Dataset>(c.val_data, "--val-data", c.seq_len);
    if (s.train && s.val &&
        (s.train->vocab_size() != s.val->vocab_size() || s.train->tokenizer() != s.val->tokenizer()))
        fail_data("--train-data and --val-data were made with different tokenizers or vocabularies (",
                  s.train->tokenizer(), " and ", s.val->tokenizer(), ")");
    const int data_vocab = s.train ? s.train->vocab_size() : 0;
    if (c.vocab_size == 0) c.vocab_size = data_vocab ? data_vocab : kGpt2Vocabulary;
    if (data_vocab > c.vocab_size)
        fail_data("the training data has a vocabulary of ", data_vocab, " tokens, the model of ", c.vocab_size,
                  ": raise --vocab-size, or choose other data");
    for (Dataset* d : {s.train.get(), s.val.get()})
        if (d) d->set_vocab_size(c.vocab_size);
}

void choose_tokenizer(Setup& s) {
    const std::string of_data = s.train ? s.train->tokenizer() : s.weights ? s.weights->tokenizer : "unknown";
    s.tokenizer = s.config.tokenizer != "auto" ? s.config.tokenizer : of_data;
    if (s.tokenizer == "unknown" && s.config.vocab_size == kGpt2Vocabulary)
        s.tokenizer = "gpt2";  // llm.c's own shards do not say
    if (s.tokenizer != "gpt2") return;
    if (s.train) {
        const fs::path beside = fs::path(s.train->shards()[0].path).parent_path() / "tokenizer.bin";
        if (fs::exists(beside)) s.tokenizer_path = beside.string();
    }
    if (s.tokenizer_path.empty() && s.weights) s.tokenizer_path = s.weights->tokenizer_path;
}

int64_t length_in_steps(const Setup& s) {
    const Config& c = s.config;
    if (c.steps >= 0) return c.steps;
    if (c.tokens >= 0) return (c.tokens + c.total_batch_size - 1) / c.total_batch_size;
    if (!s.train) return 0;
    const double epochs = c.epochs >= 0 ? c.epochs : 1;
    const int64_t samples_per_step = c.total_batch_size / c.seq_len;
    return std::max<int64_t>(c.epochs == 0 ? 0 : 1,
                             int64_t(epochs * double(s.train->windows()) / double(samples_per_step)));
}

struct MemoryNeeds {
    GPT2::Memory model;
    size_t optimizer;
    size_t total() const { return model.parameters + model.gradients + model.activations + optimizer; }
};
MemoryNeeds memory_needs(const Setup& s) {
    return {GPT2::memory(s.shape, model_options(s)), Optimizer::state_bytes(s.shape, s.config)};
}

std::string with_commas(int64_t n) {
    std::string digits = std::to_string(n);
    for (int i = int(digits.size()) - 3; i > 0; i -= 3) digits.insert(size_t(i), ",");
    return digits;
}

}  // namespace

Setup prepare(const CommandLine& line) {
    Setup s;
    s.config = line.config;
    Config& c = s.config;
    s.dtype = c.dtype == "bf16" ? DType::bf16 : DType::f32;
    if (c.resume) s.resume_from = newest_checkpoint(c.out);
    if (s.resume_from)
        s.weights = ModelFile::open(*s.resume_from);
    else if (!c.init.empty())
        s.weights = ModelFile::open(c.init);
    if (s.weights) take_shape(s, line);
    resolve_batch(c);
    open_data(s, !line.dry_run && c.steps != 0);
    if (!c.tie_embeddings) c.tie_embeddings = Parametrization::ties_by_default(c.parametrization);
    if (!s.weights && c.width % c.heads)
        fail_usage("--heads ", c.heads, " does not divide --width ", c.width, "; choose a divisor");
    if (!s.weights) s.shape = {c.depth, c.heads, c.width, c.seq_len, c.vocab_size, *c.tie_embeddings};
    choose_tokenizer(s);
    s.steps = length_in_steps(s);
    if (s.resume_from) compare_with_checkpoint(s);
    s.rules = std::make_unique<Parametrization>(c, s.shape.geometry());
    const bool used = fs::exists(fs::path(c.out) / "log.jsonl") || newest_checkpoint(c.out);
    if (!line.dry_run && !c.out.empty() && used && !c.resume && !c.overwrite)
        fail_usage(
            "--out ", c.out,
            " holds an earlier run: go on with it (--resume), delete it (--overwrite), or choose another folder");
    return s;
}

nlohmann::ordered_json rules_json(const Setup& s) { return s.rules->to_json(tensor_specs(s.shape)); }

GPT2Options model_options(const Setup& s) {
    return {.batch_size = s.config.batch_size,
            .seq_len = s.config.seq_len,
            .dtype = s.dtype,
            .recompute = recompute_named(s.config.recompute)};
}

GPT2Options checked(const Setup& s) {
    GPT2Options options = model_options(s);
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
    std::snprintf(text, sizeof text, "out of memory: --batch-size %d needs %.2f GiB, %s has %.2f GiB to give; ",
                  s.config.batch_size, double(needs.total()) / GiB, device::backend().c_str(), double(available) / GiB);
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
        device::name().c_str(), name_of(s.dtype), s.shape.depth, s.shape.channels, s.shape.heads, s.shape.head_dim(),
        s.shape.max_seq_len, s.shape.vocab_size, s.shape.padded_vocab(), s.shape.tie_embeddings ? "tied" : "untied",
        with_commas(count).c_str(), double(needs.total()) / MiB, double(needs.model.parameters) / MiB,
        double(needs.model.gradients) / MiB, double(needs.optimizer) / MiB, double(needs.model.activations) / MiB,
        double(available) / MiB, GPT2::batch_that_fits(s.shape, model_options(s), needs.optimizer, available));
    std::string out(text, size_t(used));
    if (s.train)
        out += str("data    ", with_commas(s.train->tokens()), " training tokens in ", s.train->shards().size(),
                   " shard(s), tokenizer ", s.tokenizer,
                   s.val ? str("; ", with_commas(s.val->tokens()), " validation tokens") : "; no validation data",
                   "\n");
    out += str("run     ", with_commas(s.steps), " steps of ", with_commas(c.total_batch_size), " tokens (",
               c.micro_steps(), " x ", c.batch_size, " x ", c.seq_len,
               ") = ", with_commas(s.steps * c.total_batch_size), " tokens");
    if (s.train) {
        std::snprintf(text, sizeof text, " = %.2f epochs",
                      double(s.steps * c.total_batch_size / c.seq_len) / double(s.train->windows()));
        out += text;
    }
    std::snprintf(text, sizeof text, ", %.3g FLOPs\n",
                  GPT2::flops_per_token(s.shape, c.seq_len) * double(s.steps) * double(c.total_batch_size));
    return out + text;
}

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& kind, const std::string& path, std::string& why) {
    if (kind == "byte") return std::make_unique<Tokenizer>(Tokenizer::byte());
    if (kind == "gpt2" && !path.empty()) return std::make_unique<Tokenizer>(Tokenizer::load(path));
    why = kind == "gpt2"
              ? "there is no tokenizer.bin beside the training shards (dev/data scripts with --tokenizer gpt2 write it)"
              : "the data does not say which tokenizer made it (give --tokenizer)";
    return nullptr;
}

}  // namespace llmc
