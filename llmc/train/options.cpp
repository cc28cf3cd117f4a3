#include "llmc/train/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "llmc/core/error.h"
#include "llmc/core/version.h"
#include "llmc/mup/parametrization.h"

namespace llmc {
namespace {

struct Preset {
    int depth, width, heads, seq_len;
};
// GPT-2: Radford et al. 2019; GPT-3: Brown et al. 2020, Table 2.1 (13B: width 5120, the paper's 5140 is not divisible
// by its 40 heads).
const std::map<std::string, Preset> kPresets = {
    {"gpt2", {12, 768, 12, 1024}},       {"gpt2-medium", {24, 1024, 16, 1024}}, {"gpt2-large", {36, 1280, 20, 1024}},
    {"gpt2-xl", {48, 1600, 25, 1024}},   {"gpt3-125m", {12, 768, 12, 2048}},    {"gpt3-350m", {24, 1024, 16, 2048}},
    {"gpt3-760m", {24, 1536, 16, 2048}}, {"gpt3-1.3b", {24, 2048, 16, 2048}},   {"gpt3-2.7b", {32, 2560, 32, 2048}},
    {"gpt3-6.7b", {32, 4096, 32, 2048}}, {"gpt3-13b", {40, 5120, 40, 2048}},
};

// A number in [low, high], and an error that names the value and the range in plain words.
CLI::Validator range(double low, double high) {
    auto check = [low, high](std::string& input) -> std::string {
        double value;
        if (!CLI::detail::lexical_cast(input, value) || std::isnan(value)) return "'" + input + "' is not a number";
        if (value >= low && value <= high) return {};
        return str("'", input,
                   "' is out of range: ", high >= 1e9 ? str("at least ", low) : str("between ", low, " and ", high));
    };
    return CLI::Validator(check, "");
}
constexpr double kAny = 1e300, kTiny = 1e-300;
constexpr int64_t kMany = int64_t{1} << 60;
constexpr int kManyInt = 1 << 30;

// "--lr RATE [0.0003]" and "--shuffle, --no-shuffle" instead of CLI11's "--lr FLOAT:RATE=0.0003" and
// "--shuffle,--no-shuffle{false}".
class Formatter : public CLI::Formatter {
public:
    std::string make_option_name(const CLI::Option* option, bool positional) const override {
        if (positional) return option->get_name(true);
        std::string out;
        for (auto& name : option->get_snames()) out += (out.empty() ? "-" : ", -") + name;
        for (auto& name : option->get_lnames()) out += (out.empty() ? "--" : ", --") + name;
        return out;
    }
    std::string make_option_opts(const CLI::Option* option) const override {
        if (option->get_type_size() == 0) return "";
        std::string out = " " + option->get_type_name(), value = option->get_default_str();
        return value.empty() ? out : out + " [" + value + "]";
    }
};

struct Builder {
    CLI::App& app;
    std::string group;

    // One number with its unit and range.
    template <class V, class T>
    CLI::Option* number(const std::string& name, V& value, const std::string& help, T low, T high,
                        const std::string& unit = "") {
        return app.add_option(name, value, help)
            ->group(group)
            ->check(range(double(low), double(high)))
            ->type_name(unit)
            ->capture_default_str();
    }
    CLI::Option* text(const std::string& name, std::string& value, const std::string& help, const std::string& type) {
        return app.add_option(name, value, help)->group(group)->type_name(type)->capture_default_str();
    }
    CLI::Option* choice(const std::string& name, std::string& value, const std::string& help,
                        const std::vector<std::string>& choices) {
        std::string list;
        for (auto& c : choices) list += (list.empty() ? "" : "|") + c;
        auto check = CLI::Validator(
            [choices, list](std::string& input) -> std::string {
                for (auto& c : choices)
                    if (c == input) return {};
                return "'" + input + "' is not one of " + list;
            },
            "");
        return app.add_option(name, value, help)->group(group)->check(check)->type_name(list)->capture_default_str();
    }
    CLI::Option* flag(const std::string& name, bool& value, const std::string& help) {
        return app.add_flag(name, value, help)->group(group);
    }
    // --x / --no-x, where neither means "what the parametrization says".
    void tristate(const std::string& name, std::optional<bool>& value, const std::string& help) {
        app.add_flag_function(
               "--" + name + ",!--no-" + name, [&value](int64_t n) { value = n > 0; }, help)
            ->group(group);
    }
};

void add_data_options(CLI::App& app, Config& c) {
    Builder b{app, "Data"};
    b.text("--train-data", c.train_data, "token shards to train on (dev/data/*.py make them)", "GLOB");
    b.text("--val-data", c.val_data, "token shards to evaluate on; without it nothing is evaluated", "GLOB");
    b.choice("--tokenizer", c.tokenizer, "how tokens become text; auto: as the shards say", {"auto", "byte", "gpt2"});
    app.add_flag("--shuffle,!--no-shuffle", c.shuffle,
                 "visit shards and windows in random order (--no-shuffle: file order) [on]")
        ->group(b.group);
    b.flag("--overfit-single-batch", c.overfit_single_batch,
           "train on the first batch in file order only, to see the loss go to 0");
}

void add_model_options(CLI::App& app, Config& c) {
    Builder b{app, "Model"};
    std::vector<std::string> names;
    for (auto& [name, preset] : kPresets) names.push_back(name);
    b.choice("--preset", c.preset,
             "depth, width, heads and sequence length of a published model; options below override it", names)
        ->type_name("gpt2|gpt2-medium|gpt2-large|gpt2-xl|gpt3-125m|...|gpt3-13b");
    b.text("--init", c.init, "start from the weights of this checkpoint (folder, .safetensors, or llm.c .bin)",
           "CHECKPOINT");
    b.number("--depth", c.depth, "transformer blocks", 1, 10000, "BLOCKS");
    b.number("--width", c.width, "channels of the residual stream", 1, 1000000, "CHANNELS");
    auto* heads = b.number("--heads", c.heads, "attention heads; must divide the width", 1, 1000000, "HEADS");
    b.number("--head-dim", c.head_dim, "head size, instead of --heads", 1, 1000000, "CHANNELS")->excludes(heads);
    b.number("--seq-len", c.seq_len, "tokens per sequence, and learned positions of a new model", 1, 10000000,
             "TOKENS");
    b.number("--vocab-size", c.vocab_size, "vocabulary; 0: as the training data says", 0, kManyInt, "TOKENS");
    b.tristate("tie-embeddings", c.tie_embeddings, "head shares wte's weights [on for sp only]");
}

void add_run_options(CLI::App& app, Config& c) {
    Builder b{app, "Batch and length"};
    b.number("--batch-size", c.batch_size, "sequences per micro-batch", 1, 1000000, "SEQUENCES");
    b.number("--total-batch-size", c.total_batch_size,
             "tokens per optimizer step, a multiple of batch size x sequence length; 0: one micro-batch", int64_t{0},
             kMany, "TOKENS");
    auto* steps = b.number("--steps", c.steps, "optimizer steps to run; 0 writes the initial checkpoint; -1: one epoch",
                           int64_t{-1}, kMany, "STEPS");
    auto* tokens = b.number("--tokens", c.tokens, "length of the run in tokens, instead of --steps", int64_t{-1}, kMany,
                            "TOKENS");
    b.number("--epochs", c.epochs, "length of the run in passes over the data, instead of --steps", -1.0, 1e9, "EPOCHS")
        ->excludes(steps)
        ->excludes(tokens);
    tokens->excludes(steps);
    b.choice("--dtype", c.dtype, "weights and activations; bf16 keeps fp32 master weights", {"fp32", "bf16"});
    b.choice("--recompute", c.recompute,
             "what the backward pass computes again instead of keeping it: less memory, more time",
             {"none", "gelu", "block"});
    b.choice("--rounding", c.rounding, "of bf16 weights from their masters", {"nearest", "stochastic"});
}

void add_parametrization_options(CLI::App& app, Config& c) {
    Builder b{app, "Parametrization (mup.md)"};
    b.choice("--parametrization", c.parametrization, "how init, learning rates and multipliers follow width and depth",
             Parametrization::names());
    b.number("--base-width", c.base_width,
             "width at which it is the standard parametrization; width_mult = width / base width", 0, 1000000,
             "CHANNELS");
    b.number("--base-heads", c.base_heads, "heads of the base model [what keeps the head size]", 0, 1000000, "HEADS");
    b.number("--attn-mult", c.attn_mult, "attention logits = attn_mult / head_dim * q.k [sqrt of the base head size]",
             0.0, kAny, "FACTOR");
    b.number("--output-mult", c.output_mult, "multiplies the logits", 0.0, kAny, "FACTOR");
    b.number("--embed-mult", c.embed_mult, "multiplies the sum of the embeddings", 0.0, kAny, "FACTOR");
    b.number("--init-std", c.init_std, "of every weight at the base width", 0.0, kAny, "STD");
    b.tristate("zero-init-query", c.zero_init_query, "start the query weights at 0 [off for sp and u-mup]");
    b.tristate("zero-init-head", c.zero_init_head, "start an untied head at 0 [off for sp and u-mup]");
    app.add_flag("--scale-eps,!--no-scale-eps", c.scale_eps, "Adam's epsilon follows the gradients' size too [on]")
        ->group(b.group);
    b.number("--base-depth", c.base_depth,
             "completep: depth at which it is the standard parametrization; depth_mult = depth / base depth", 0, 10000,
             "BLOCKS");
    b.number("--depth-alpha", c.depth_alpha, "completep: residual branches are multiplied by depth_mult^-alpha", 0.5,
             1.0, "ALPHA");
    b.number("--ffn-act-mult", c.ffn_act_mult, "u-mup: temperature of the GELU", kTiny, kAny, "FACTOR");
    b.number("--attn-softmax-mult", c.attn_softmax_mult, "u-mup: attention logits = this / head_dim * q.k", kTiny, kAny,
             "FACTOR");
    b.number("--residual-mult", c.residual_mult, "u-mup: the branches' part of the residual stream", kTiny, kAny,
             "FACTOR");
    b.number("--residual-attn-ratio", c.residual_attn_ratio, "u-mup: attention's part against the MLP's", kTiny, kAny,
             "FACTOR");
    b.number("--loss-softmax-mult", c.loss_softmax_mult, "u-mup: multiplies the logits in the loss", kTiny, kAny,
             "FACTOR");
}

void add_optimizer_options(CLI::App& app, Config& c) {
    Builder b{app, "Optimizer"};
    b.choice("--optimizer", c.optimizer, "update rule", {"adamw", "sgd"});
    b.number("--lr", c.lr, "peak learning rate of the base model", 0.0, kAny, "RATE");
    b.number("--warmup-steps", c.warmup_steps, "linear warm-up", int64_t{0}, kMany, "STEPS");
    b.choice("--schedule", c.schedule, "after the warm-up; wsd: constant, then 1-sqrt over the last fifth",
             {"cosine", "linear", "constant", "wsd"});
    b.number("--final-lr-frac", c.final_lr_frac, "learning rate at the end, as a part of the peak", 0.0, 1.0,
             "FRACTION");
    b.number("--weight-decay", c.weight_decay, "of matrices and embeddings (not of biases and layer norms)", 0.0, kAny,
             "LAMBDA");
    b.choice("--weight-decay-mode", c.weight_decay_mode,
             "scaled: lr x lambda alike at every width; independent: schedule x lambda, not x lr",
             {"scaled", "independent"});
    b.number("--beta1", c.beta1, "AdamW, first moment", 0.0, 0.999999999, "BETA");
    b.number("--beta2", c.beta2, "AdamW, second moment", 0.0, 0.999999999, "BETA");
    b.number("--eps", c.eps, "AdamW, of the base model", 0.0, kAny, "EPS");
    b.number("--momentum", c.momentum, "SGD", 0.0, 0.999999999, "MU");
    b.number("--grad-clip", c.grad_clip, "largest global gradient norm; 0: no clipping [1, for u-mup 0]", 0.0, kAny,
             "NORM");
    b.number("--skip-loss-zscore", c.skip_loss_zscore,
             "skip updates whose loss is this many deviations above the last 128; 0: never", 0.0, kAny, "Z");
    b.number("--skip-grad-zscore", c.skip_grad_zscore, "the same for the gradient norm; 0: never", 0.0, kAny, "Z");
}

void add_evaluation_options(CLI::App& app, Config& c) {
    Builder b{app, "Evaluation and samples"};
    b.number("--eval-every", c.eval_every, "validate at every so many steps and at the end; 0: at the end only",
             int64_t{0}, kMany, "STEPS");
    b.number("--eval-batches", c.eval_batches, "validation batches; 0: all of --val-data", int64_t{0}, kMany,
             "BATCHES");
    b.number("--sample-every", c.sample_every, "generate text at every so many steps and at the end; 0: never",
             int64_t{0}, kMany, "STEPS");
}

void add_sampling_options(CLI::App& app, Config& c) {
    Builder b{app, "Evaluation and samples"};
    b.text("--prompt", c.prompt, "text to continue; empty: start of a document", "TEXT");
    b.number("--temperature", c.temperature, "0: always the likeliest token", 0.0, 1000.0, "TEMP");
    b.number("--top-k", c.top_k, "choose among the k likeliest tokens; 0: all", 0, kManyInt, "K");
    b.number("--sample-tokens", c.sample_tokens, "length of a sample", 1, kManyInt, "TOKENS");
}

void add_output_options(CLI::App& app, Config& c) {
    Builder b{app, "Output"};
    b.text("--out", c.out, "folder for log.jsonl and checkpoints; without it nothing is written", "FOLDER");
    b.text("--coord-check", c.coord_check,
           "write statistics of every activation, parameter and gradient at each step to this CSV", "FILE");
    b.flag("--profile", c.profile, "time every op of the run's steps but the first: a table, and a line in the log");
    b.flag("--overwrite", c.overwrite, "delete an earlier run's log and checkpoints in --out");
    b.flag("--resume", c.resume, "go on from the newest checkpoint in --out; start afresh where there is none");
    b.number("--checkpoint-every", c.checkpoint_every,
             "checkpoint at every so many steps and at the end; 0: at the end only", int64_t{0}, kMany, "STEPS");
    b.number("--keep", c.keep, "checkpoints that stay", 1, kManyInt, "COUNT");
}

void add_machine_options(CLI::App& app, Config& c) {
    Builder b{app, "Machine"};
    b.number("--seed", c.seed, "of initial weights, data order, rounding and samples", 0.0, 1.8e19, "SEED");
    b.number("--threads", c.threads, "CPU threads; 0: one per core", 0, 4096, "THREADS");
}

int edit_distance(const std::string& a, const std::string& b) {
    std::vector<int> row(b.size() + 1);
    for (size_t j = 0; j <= b.size(); ++j) row[j] = int(j);
    for (size_t i = 1; i <= a.size(); ++i) {
        int diagonal = row[0];
        row[0] = int(i);
        for (size_t j = 1; j <= b.size(); ++j) {
            int above = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
            diagonal = above;
        }
    }
    return row[b.size()];
}

// "; did you mean --warmup-steps?" or nothing.
std::string nearest_option(const CLI::App& app, std::string given) {
    given = given.substr(std::min(given.find_first_not_of('-'), given.size()));
    given = given.substr(0, given.find('='));
    std::string best;
    int best_distance = std::min<int>(4, int(given.size() + 1) / 2);
    for (const CLI::Option* option : app.get_options())
        for (const std::string& name : option->get_lnames())
            if (int d = edit_distance(given, name); d < best_distance) best = name, best_distance = d;
    return best.empty() ? "; --help lists the options" : "; did you mean --" + best + "?";
}

std::string describe(const CLI::App& app, const CLI::ParseError& error) {
    if (dynamic_cast<const CLI::ExtrasError*>(&error) || dynamic_cast<const CLI::ConfigError*>(&error)) {
        std::string what = error.what();
        std::string word = what.substr(what.find_last_of(' ') + 1);
        return (dynamic_cast<const CLI::ConfigError*>(&error) ? "unknown key in the config file: "
                                                              : "unknown argument: ") +
               word + nearest_option(app, word);
    }
    return error.what();
}

// Fills in what the preset says for everything that was not given by hand.
void apply_preset(const CLI::App& app, Config& c) {
    if (c.preset.empty()) return;
    const Preset& p = kPresets.at(c.preset);
    auto given = [&](const char* name) { return app.get_option(name)->count() > 0; };
    if (!given("--depth")) c.depth = p.depth;
    if (!given("--width")) c.width = p.width;
    if (!given("--heads") && !given("--head-dim")) c.heads = p.heads;
    if (!given("--seq-len")) c.seq_len = p.seq_len;
}

// What no single option can see.
void validate(const CLI::App& app, Config& c) {
    if (app.get_option("--head-dim")->count()) {
        if (c.width % c.head_dim) fail_usage("--head-dim ", c.head_dim, " does not divide --width ", c.width);
        c.heads = c.width / c.head_dim;
    }
    c.head_dim = 0;  // from here on heads says it
    if (c.resume && c.out.empty()) fail_usage("--resume needs --out, the folder of the run to go on with");
    if (c.resume && c.overwrite)
        fail_usage("--resume and --overwrite contradict each other: keep the earlier run, or delete it?");
    if (!c.coord_check.empty() && !c.overfit_single_batch)
        fail_usage("--coord-check ", c.coord_check,
                   " needs --overfit-single-batch: it compares the activations of the same tokens at every step");
    if (!c.coord_check.empty() && c.resume)
        fail_usage("--coord-check ", c.coord_check, " excludes --resume: it compares with the first step");
    if (c.checkpoint_every > 0 && c.out.empty())
        fail_usage("--checkpoint-every ", c.checkpoint_every, " needs --out, a folder to write to");
}

}  // namespace

void resolve_batch(Config& c) {
    if (!c.grad_clip) c.grad_clip = c.parametrization == "u-mup" ? 0 : 1;
    const int64_t micro = int64_t{c.batch_size} * c.seq_len;
    if (c.total_batch_size == 0) c.total_batch_size = micro;
    if (c.total_batch_size % micro)
        fail_usage("--total-batch-size ", c.total_batch_size,
                   " is not a multiple of --batch-size x --seq-len = ", micro, " tokens; the nearest are ",
                   std::max<int64_t>(1, c.total_batch_size / micro) * micro, " and ",
                   (c.total_batch_size / micro + 1) * micro);
    if (!c.coord_check.empty() && c.micro_steps() > 1)
        fail_usage("--coord-check ", c.coord_check, " looks at one micro-batch a step, this run has ", c.micro_steps(),
                   ": leave --total-batch-size out");
}

CommandLine parse_options(int argc, char** argv) {
    CommandLine line;
    Config& c = line.config;
    CLI::App app{
        "train_gpt2: trains a GPT-2 with the maximal update parametrization (muP).\nExample: ./train_gpt2 --config "
        "scripts/first_run.toml --width 256"};
    app.formatter(std::make_shared<Formatter>());
    app.get_formatter()->column_width(46);
    app.set_version_flag("--version", std::string("llmc-mup ") + kVersion, "print the version and exit");
    app.get_option("--help")->description("print this and exit");
    // so that a script's options can be overridden by appending
    app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    bool print_config = false;
    app.set_config("--config", "", "read options from a TOML file; the command line wins")
        ->check(CLI::Validator(CLI::ExistingFile).description(""))
        ->type_name("FILE");
    app.allow_config_extras(CLI::config_extras_mode::error);
    app.add_flag("--print-config", print_config, "print the resolved options as TOML and exit")->configurable(false);
    app.add_flag("--dry-run", line.dry_run, "print shapes, memory, tokens and the rule of every tensor, and exit")
        ->configurable(false);
    add_data_options(app, c);
    add_model_options(app, c);
    add_run_options(app, c);
    add_parametrization_options(app, c);
    add_optimizer_options(app, c);
    add_evaluation_options(app, c);
    add_sampling_options(app, c);
    add_output_options(app, c);
    add_machine_options(app, c);

    CLI::App* sample = app.add_subcommand(
        "sample", "generate text from a checkpoint: train_gpt2 sample CHECKPOINT --prompt TEXT");
    sample->add_option("CHECKPOINT", line.sample_checkpoint, "checkpoint folder or .safetensors file")->required();
    sample->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    add_sampling_options(*sample, c);
    add_machine_options(*sample, c);

    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& success) {  // --help, --version
        std::exit(app.exit(success));
    } catch (const CLI::ParseError& error) {
        fail_usage(describe(app, error));
    }
    if (sample->parsed()) {
        line.command = CommandLine::Command::sample;
        return line;
    }
    auto given = [&](const char* name) { return app.get_option(name)->count() > 0 || !c.preset.empty(); };
    line.depth_given = given("--depth");
    line.width_given = given("--width");
    line.heads_given = given("--heads") || given("--head-dim");
    line.seq_len_given = given("--seq-len");
    line.vocab_size_given = app.get_option("--vocab-size")->count() > 0 && c.vocab_size > 0;
    apply_preset(app, c);
    validate(app, c);
    if (print_config) {
        if (c.init.empty()) resolve_batch(c);
        std::fputs(to_toml(c).c_str(), stdout);
        std::exit(kExitOk);
    }
    return line;
}

}  // namespace llmc
