// The table of options. To add one: CONTRIBUTING.md, "Add an option".
#include "llmc/train/options/option.h"

namespace llmc {
namespace {

constexpr double kMany = 0x1p60;
constexpr double kBelowOne = 0.999999999;
constexpr double kCount = 1 << 30;

constexpr const char *kData = "Data", *kModelGroup = "Model", *kLength = "Batch and length",
                     *kMup = "Parametrization (mup.md)", *kOptimizer = "Optimizer",
                     *kEvaluation = "Evaluation and samples", *kOutput = "Output", *kMachine = "Machine",
                     *kProcesses = "Several processes (doc/distributed.md)";

constexpr const char* kUnitScale = "which starts everything at unit scale";
constexpr const char* kUnitMultipliers =
    "because ffn-act, attn-softmax, residual, residual-attn-ratio and loss-softmax are u-mup's multipliers";

bool has_base(const Scheme& scheme) { return scheme.has_base; }
bool scales_depth(const Scheme& scheme) { return scheme.scales_depth; }
bool can_tie(const Scheme& scheme) { return !scheme.why_untied; }
bool unit_scaled(const Scheme& scheme) { return scheme.unit_scaled; }
bool not_unit_scaled(const Scheme& scheme) { return !scheme.unit_scaled; }

std::vector<std::string> preset_names() {
    std::vector<std::string> names;
    for (const Preset& preset : presets()) names.push_back(preset.name);
    return names;
}

#define FIELD(member) [](auto& c) -> auto& { return c.member; }

// clang-format off
std::vector<Option> data_options() {
    return {
        {.name = "train-data", .group = kData, .help = "token shards to train on (dev/data/*.py make them): files, folders or patterns, one or several",
         .field = FIELD(data.train_data), .unit = "GLOB"},
        {.name = "val-data", .group = kData, .help = "token shards to evaluate on: files, folders or patterns; without it nothing is evaluated",
         .field = FIELD(data.val_data), .scope = kRun | kEval, .unit = "GLOB"},
        {.name = "tokenizer", .group = kData,
         .help = "how tokens become text; auto: that of the shards or the checkpoint", .field = FIELD(data.tokenizer),
         .scope = kRun | kSample | kEval},
        {.name = "shuffle", .group = kData,
         .help = "visit shards and windows in random order (--no-shuffle: in file order)",
         .field = FIELD(data.shuffle)},
        {.name = "overfit-single-batch", .group = kData,
         .help = "train on the first batch in file order only, to see the loss go to 0",
         .field = FIELD(data.overfit_single_batch)},
    };
}

std::vector<Option> model_options() {
    return {
        {.name = "preset", .group = kModelGroup,
         .help = "depth, width, heads and sequence length of a published model; the options below override it",
         .field = FIELD(model.preset), .scope = kRun | kModel, .choices = preset_names(),
         .replaces = {"depth", "width", "heads", "head-dim", "seq-len"}},
        {.name = "init", .group = kModelGroup,
         .help = "start from the weights of this checkpoint (folder, .safetensors, or llm.c's .bin)",
         .field = FIELD(model.init), .scope = kRun | kModel, .unit = "CHECKPOINT",
         .replaces = {"preset", "depth", "width", "heads", "head-dim", "vocab-size", "tie-embeddings"}},
        {.name = "depth", .group = kModelGroup, .help = "transformer blocks", .field = FIELD(model.depth),
         .scope = kRun | kModel, .unit = "BLOCKS", .low = 1, .high = 10000},
        {.name = "width", .group = kModelGroup, .help = "channels of the residual stream", .field = FIELD(model.width),
         .scope = kRun | kModel, .unit = "CHANNELS", .low = 1, .high = 1000000},
        {.name = "heads", .group = kModelGroup, .help = "attention heads; must divide the width",
         .field = FIELD(model.heads), .scope = kRun | kModel | kSample | kEval, .unit = "HEADS", .low = 1, .high = 1000000,
         .default_text = "12, or those of the weights"},
        {.name = "head-dim", .group = kModelGroup, .help = "head size, instead of --heads",
         .field = FIELD(model.head_dim), .scope = kRun | kModel | kSample | kEval, .unit = "CHANNELS", .low = 1, .high = 1000000,
         .excludes = {"heads"}, .stored = false},
        {.name = "seq-len", .group = kModelGroup, .help = "tokens per sequence, and learned positions of a new model",
         .field = FIELD(model.seq_len), .scope = kRun | kModel | kEval, .unit = "TOKENS", .low = 1, .high = 10000000,
         .default_text = "1024, or all positions of the weights"},
        {.name = "vocab-size", .group = kModelGroup, .help = "vocabulary size; 0: that of the training data",
         .field = FIELD(model.vocab_size), .scope = kRun | kModel, .unit = "TOKENS", .low = 0, .high = kCount},
        {.name = "tie-embeddings", .group = kModelGroup, .help = "the head shares the weights of wte",
         .field = FIELD(model.tie_embeddings), .scope = kRun | kModel, .default_text = "on for sp, else off",
         .meant = can_tie, .meant_why = "whose embedding and head differ in more than a factor"},
        {.name = "dtype", .group = kModelGroup, .help = "weights and activations; bf16 keeps fp32 master weights",
         .field = FIELD(model.dtype), .scope = kRun | kModel | kEval},
        {.name = "recompute", .group = kModelGroup,
         .help = "activations that are computed again in the backward pass: less memory, more time",
         .field = FIELD(model.recompute), .scope = kRun | kModel},
    };
}

std::vector<Option> length_options() {
    return {
        {.name = "batch-size", .group = kLength, .help = "sequences per micro-batch (and rank)",
         .field = FIELD(run.batch_size), .scope = kRun | kModel | kEval, .unit = "SEQUENCES", .low = 1, .high = 1000000},
        {.name = "total-batch-size", .group = kLength,
         .help = "tokens per optimizer step, a multiple of batch size x sequence length; 0: one micro-batch",
         .field = FIELD(run.total_batch_size), .scope = kRun | kModel, .unit = "TOKENS", .low = 0,
         .high = kMany, .replaces = {"coord-check"}},
        {.name = "steps", .group = kLength,
         .help = "optimizer steps to run; 0 writes the initial checkpoint; -1: one epoch", .field = FIELD(run.steps),
         .unit = "STEPS", .low = -1, .high = kMany, .off = -1},
        {.name = "tokens", .group = kLength, .help = "length of the run in tokens, instead of --steps",
         .field = FIELD(run.tokens), .unit = "TOKENS", .low = -1, .high = kMany, .off = -1, .excludes = {"steps"}},
        {.name = "epochs", .group = kLength, .help = "length of the run in passes over the data, instead of --steps",
         .field = FIELD(run.epochs), .unit = "EPOCHS", .low = -1, .high = 1e9, .off = -1,
         .excludes = {"steps", "tokens"}},
    };
}

std::vector<Option> mup_options() {
    return {
        {.name = "parametrization", .group = kMup,
         .help = "how init, learning rates and multipliers follow width and depth", .field = FIELD(mup.scheme),
         .scope = kRun | kModel, .choices = Parametrization::names()},
        {.name = "base-width", .group = kMup,
         .help = "width of the base model, which is the standard parametrization; width_mult = width / base width",
         .field = FIELD(mup.base_width), .scope = kRun | kModel, .unit = "CHANNELS", .low = 0, .high = 1000000,
         .off = 0, .meant = has_base, .required = has_base, .meant_why = "which has no base model"},
        {.name = "base-heads", .group = kMup, .help = "heads of the base model", .field = FIELD(mup.base_heads),
         .scope = kRun | kModel, .unit = "HEADS", .low = 0, .high = 1000000, .default_text = "keeps the head size",
         .off = 0, .meant = has_base, .meant_why = "which has no base model"},
        {.name = "base-depth", .group = kMup,
         .help = "depth of the base model, which is the standard parametrization; depth_mult = depth / base depth",
         .field = FIELD(mup.base_depth), .scope = kRun | kModel, .unit = "BLOCKS", .low = 0, .high = 10000, .off = 0,
         .meant = scales_depth, .required = scales_depth, .meant_why = "which does not scale the depth"},
        {.name = "depth-alpha", .group = kMup, .help = "residual branches are multiplied by depth_mult^-alpha",
         .field = FIELD(mup.depth_alpha), .scope = kRun | kModel, .unit = "ALPHA", .low = 0.5, .high = 1, .off = 1,
         .meant = scales_depth, .meant_why = "which does not scale the depth"},
        {.name = "attn-mult", .group = kMup, .help = "attention logits = attn_mult / head_dim * q.k",
         .field = FIELD(mup.attn_mult), .scope = kRun | kModel, .unit = "FACTOR", .low = 0,
         .default_text = "sqrt of the base head size", .meant = not_unit_scaled, .meant_why = kUnitScale},
        {.name = "output-mult", .group = kMup, .help = "multiplies the logits", .field = FIELD(mup.output_mult),
         .scope = kRun | kModel, .unit = "FACTOR", .low = 0, .off = 1, .meant = not_unit_scaled,
         .meant_why = kUnitScale},
        {.name = "embed-mult", .group = kMup, .help = "multiplies the sum of the embeddings",
         .field = FIELD(mup.embed_mult), .scope = kRun | kModel, .unit = "FACTOR", .low = 0, .off = 1,
         .meant = not_unit_scaled, .meant_why = kUnitScale},
        {.name = "init-std", .group = kMup, .help = "initial standard deviation of every weight at the base width",
         .field = FIELD(mup.init_std), .scope = kRun | kModel, .unit = "STD", .low = 0, .off = 0.02,
         .meant = not_unit_scaled, .meant_why = kUnitScale},
        {.name = "zero-init-query", .group = kMup, .help = "the query weights start at 0",
         .field = FIELD(mup.zero_init_query), .scope = kRun | kModel, .default_text = "off for sp and u-mup, else on"},
        {.name = "zero-init-head", .group = kMup, .help = "an untied head starts at 0",
         .field = FIELD(mup.zero_init_head), .scope = kRun | kModel, .default_text = "off for sp and u-mup, else on",
         .excludes = {"tie-embeddings"}},
        {.name = "scale-eps", .group = kMup, .help = "Adam's epsilon follows the size of the gradients",
         .field = FIELD(mup.scale_eps), .scope = kRun | kModel},
        {.name = "ffn-act-mult", .group = kMup, .help = "temperature of the GELU: gelu(x) becomes gelu(mult x) / mult",
         .field = FIELD(mup.ffn_act_mult), .scope = kRun | kModel, .unit = "FACTOR", .low = 0, .above_low = true,
         .off = 1, .meant = unit_scaled, .meant_why = kUnitMultipliers},
        {.name = "attn-softmax-mult", .group = kMup, .help = "attention logits = mult / head_dim * q.k",
         .field = FIELD(mup.attn_softmax_mult), .scope = kRun | kModel, .unit = "FACTOR", .low = 0, .above_low = true,
         .off = 1, .meant = unit_scaled, .meant_why = kUnitMultipliers},
        {.name = "residual-mult", .group = kMup, .help = "size of the branches in the residual stream",
         .field = FIELD(mup.residual_mult), .scope = kRun | kModel, .unit = "FACTOR", .low = 0, .above_low = true,
         .off = 1, .meant = unit_scaled, .meant_why = kUnitMultipliers},
        {.name = "residual-attn-ratio", .group = kMup,
         .help = "size of the attention branches relative to that of the MLPs",
         .field = FIELD(mup.residual_attn_ratio), .scope = kRun | kModel, .unit = "FACTOR", .low = 0, .above_low = true,
         .off = 1, .meant = unit_scaled, .meant_why = kUnitMultipliers},
        {.name = "loss-softmax-mult", .group = kMup, .help = "multiplies the logits in the loss",
         .field = FIELD(mup.loss_softmax_mult), .scope = kRun | kModel, .unit = "FACTOR", .low = 0, .above_low = true,
         .off = 1, .meant = unit_scaled, .meant_why = kUnitMultipliers},
    };
}

std::vector<Option> optimizer_options() {
    return {
        {.name = "optimizer", .group = kOptimizer, .help = "update rule", .field = FIELD(optimizer.kind),
         .scope = kRun | kModel},
        {.name = "lr", .group = kOptimizer, .help = "peak learning rate of the base model",
         .field = FIELD(optimizer.lr), .scope = kRun | kModel, .unit = "RATE", .low = 0},
        {.name = "warmup-steps", .group = kOptimizer, .help = "steps of linear warm-up",
         .field = FIELD(run.schedule.warmup_steps), .unit = "STEPS", .low = 0, .high = kMany},
        {.name = "schedule", .group = kOptimizer,
         .help = "learning rate after the warm-up; wsd: constant, then 1-sqrt over the last fifth",
         .field = FIELD(run.schedule.kind)},
        {.name = "final-lr-frac", .group = kOptimizer, .help = "learning rate at the end, as a fraction of the peak",
         .field = FIELD(run.schedule.final_lr_frac), .unit = "FRACTION", .low = 0, .high = 1},
        {.name = "weight-decay", .group = kOptimizer,
         .help = "decay of matrices and embeddings (not of biases and layer norms)",
         .field = FIELD(optimizer.weight_decay), .scope = kRun | kModel, .unit = "LAMBDA", .low = 0},
        {.name = "weight-decay-mode", .group = kOptimizer,
         .help = "scaled: lr x lambda is the same at every width; independent: schedule x lambda, not x lr",
         .field = FIELD(optimizer.weight_decay_mode), .scope = kRun | kModel},
        {.name = "beta1", .group = kOptimizer, .help = "AdamW: decay of the first moment",
         .field = FIELD(optimizer.beta1), .scope = kRun | kModel, .unit = "BETA", .low = 0, .high = kBelowOne},
        {.name = "beta2", .group = kOptimizer, .help = "AdamW: decay of the second moment",
         .field = FIELD(optimizer.beta2), .scope = kRun | kModel, .unit = "BETA", .low = 0, .high = kBelowOne},
        {.name = "eps", .group = kOptimizer, .help = "AdamW: epsilon of the base model", .field = FIELD(optimizer.eps),
         .scope = kRun | kModel, .unit = "EPS", .low = 0},
        {.name = "momentum", .group = kOptimizer, .help = "SGD: momentum", .field = FIELD(optimizer.momentum),
         .scope = kRun | kModel, .unit = "MU", .low = 0, .high = kBelowOne},
        {.name = "grad-clip", .group = kOptimizer, .help = "largest global gradient norm; 0: no clipping",
         .field = FIELD(optimizer.grad_clip), .scope = kRun | kModel, .unit = "NORM", .low = 0,
         .default_text = "1, for u-mup 0"},
        {.name = "skip-loss-zscore", .group = kOptimizer,
         .help = "skip updates whose loss is this many deviations above the last 128; 0: never",
         .field = FIELD(run.skip_loss_zscore), .unit = "Z", .low = 0},
        {.name = "skip-grad-zscore", .group = kOptimizer, .help = "the same for the gradient norm; 0: never",
         .field = FIELD(run.skip_grad_zscore), .unit = "Z", .low = 0},
        {.name = "rounding", .group = kOptimizer, .help = "how bf16 weights are rounded from their fp32 masters",
         .field = FIELD(rounding), .scope = kRun | kModel},
    };
}

std::vector<Option> evaluation_options() {
    return {
        {.name = "eval-every", .group = kEvaluation,
         .help = "validate every so many steps and at the end; 0: only at the end",
         .field = FIELD(evaluation.every), .unit = "STEPS", .low = 0, .high = kMany},
        {.name = "eval-tokens", .group = kEvaluation,
         .help = "validate on the first so many tokens of --val-data, at any batch size and length; 0: all",
         .field = FIELD(evaluation.tokens), .scope = kRun | kEval, .unit = "TOKENS", .low = 0, .high = kMany, .default_text = "81920"},
        {.name = "eval-batches", .group = kEvaluation,
         .help = "instead: micro-batches, which are other text at another batch size or length; 0: all",
         .field = FIELD(evaluation.batches), .scope = kRun | kEval, .unit = "BATCHES", .low = 0, .high = kMany, .excludes = {"eval-tokens"}},
        {.name = "eval-stride", .group = kEvaluation,
         .help = "begin a window every so many tokens; where windows overlap, each target counts once",
         .field = FIELD(evaluation.stride), .scope = kRun | kEval, .unit = "TOKENS", .low = 1, .high = kCount,
         .default_text = "the sequence length", .excludes = {"eval-batches"},
         .needs = "val-data", .needs_why = "it places windows in that"},
        {.name = "hellaswag", .group = kEvaluation,
         .help = "accuracy on these multiple-choice examples: HellaSwag's JSON lines, or llm.c's eval file",
         .field = FIELD(evaluation.hellaswag), .scope = kRun | kEval, .unit = "FILE"},
        {.name = "hellaswag-limit", .group = kEvaluation, .help = "use its first so many examples; 0: all",
         .field = FIELD(evaluation.hellaswag_limit), .scope = kRun | kEval, .unit = "COUNT", .low = 0, .high = kCount,
         .off = 0, .needs = "hellaswag", .needs_why = "the file with the examples"},
        {.name = "early-stop", .group = kEvaluation,
         .help = "end the run after so many validations in a row without a lower loss; 0: never",
         .field = FIELD(evaluation.early_stop), .unit = "COUNT", .low = 0, .high = kMany, .off = 0,
         .needs = "val-data", .needs_why = "it looks at the validation loss"},
        {.name = "sample-every", .group = kEvaluation,
         .help = "generate text every so many steps and at the end; 0: never", .field = FIELD(sampling.every),
         .unit = "STEPS", .low = 0, .high = kMany},
        {.name = "prompt", .group = kEvaluation, .help = "text to continue; empty: the start of a document",
         .field = FIELD(sampling.prompt), .scope = kRun | kSample, .unit = "TEXT"},
        {.name = "temperature", .group = kEvaluation, .help = "sampling temperature; 0: always the most likely token",
         .field = FIELD(sampling.choice.temperature), .scope = kRun | kSample, .unit = "TEMP", .low = 0, .high = 1000},
        {.name = "top-k", .group = kEvaluation, .help = "choose among the k most likely tokens; 0: all",
         .field = FIELD(sampling.choice.top_k), .scope = kRun | kSample, .unit = "K", .low = 0, .high = kCount},
        {.name = "top-p", .group = kEvaluation,
         .help = "choose among the fewest likeliest tokens whose probabilities reach P, after --top-k; 1: all",
         .field = FIELD(sampling.choice.top_p), .scope = kRun | kSample, .unit = "P", .low = 0, .high = 1, .above_low = true},
        {.name = "repetition-penalty", .group = kEvaluation,
         .help = "divide positive logits of tokens in the context by R, multiply negative ones; 1: none",
         .field = FIELD(sampling.choice.repetition_penalty), .scope = kRun | kSample, .unit = "R", .low = 0, .high = 1000, .above_low = true},
        {.name = "sample-tokens", .group = kEvaluation, .help = "length of a sample", .field = FIELD(sampling.tokens),
         .scope = kRun | kSample, .unit = "TOKENS", .low = 1, .high = kCount},
        {.name = "stop", .group = kEvaluation, .help = "end the text before the first occurrence of this one; empty: never",
         .field = FIELD(sampling.stop), .scope = kRun | kSample, .unit = "TEXT"},
        {.name = "samples", .group = kEvaluation, .help = "continuations of the prompt, with different random numbers",
         .field = FIELD(sampling.samples), .scope = kSample, .unit = "COUNT", .low = 1, .high = kCount, .stored = false},
    };
}

std::vector<Option> output_options() {
    return {
        {.name = "out", .group = kOutput, .help = "folder for log.jsonl and checkpoints; without it nothing is written",
         .field = FIELD(output.out), .unit = "FOLDER"},
        {.name = "overwrite", .group = kOutput, .help = "delete an earlier run's log and checkpoints in --out",
         .field = FIELD(output.overwrite)},
        {.name = "resume", .group = kOutput,
         .help = "continue from the newest checkpoint in --out, with its options; without one start at step 0",
         .field = FIELD(output.resume), .excludes = {"overwrite"}, .needs = "out",
         .needs_why = "the folder of the run to continue"},
        {.name = "allow-data-change", .group = kOutput,
         .help = "resume although the data is not that of the checkpoint", .field = FIELD(output.allow_data_change),
         .needs = "resume", .needs_why = "it has a meaning only there", .stored = false},
        {.name = "checkpoint-every", .group = kOutput,
         .help = "write a checkpoint every so many steps and at the end; 0: only at the end",
         .field = FIELD(output.checkpoint_every), .unit = "STEPS", .low = 0, .high = kMany, .off = 0, .needs = "out",
         .needs_why = "a folder to write to"},
        {.name = "checkpoint-minutes", .group = kOutput,
         .help = "with --out, also write a checkpoint when the last one is this old; 0: never",
         .field = FIELD(output.checkpoint_minutes), .unit = "MINUTES", .low = 0, .default_text = "15", .off = 0,
         .needs = "out", .needs_why = "a folder to write to"},
        {.name = "keep", .group = kOutput, .help = "number of checkpoints to keep", .field = FIELD(output.keep),
         .unit = "COUNT", .low = 1, .high = kCount},
        {.name = "keep-best", .group = kOutput,
         .help = "also keep the checkpoint with the least validation loss: OUT/checkpoints/best",
         .field = FIELD(output.keep_best), .needs = "out", .needs_why = "a folder to write to"},
        {.name = "coord-check", .group = kOutput,
         .help = "write statistics of every activation, parameter and gradient at each step to this CSV",
         .field = FIELD(output.coord_check), .unit = "FILE", .excludes = {"resume"}, .replaces = {"total-batch-size"},
         .needs = "overfit-single-batch",
         .needs_why = "it compares the activations of the same tokens at every step"},
        {.name = "profile", .group = kOutput, .help = "time every op in all steps except the first",
         .field = FIELD(output.profile)},
    };
}

std::vector<Option> machine_options() {
    return {
        {.name = "seed", .group = kMachine, .help = "seed of initial weights, data order, rounding and samples",
         .field = FIELD(machine.seed), .scope = kRun | kModel | kSample, .unit = "SEED", .low = 0},
        {.name = "threads", .group = kMachine, .help = "CPU threads; 0: one per CPU that it may use", .field = FIELD(machine.threads),
         .scope = kRun | kSample | kEval, .unit = "THREADS", .low = 0, .high = 4096},
        {.name = "matmul-kernel", .group = kMachine,
         .help = "bf16 products and attention on a GPU: by mma.sync, or by Hopper's wgmma; auto: the faster one for their sizes",
         .field = FIELD(machine.matmul_kernel), .scope = kRun | kSample | kEval},
    };
}

std::vector<Option> process_options() {
    return {
        {.name = "zero-stage", .group = kProcesses,
         .help = "1: each process keeps and updates its part of the optimizer's state (ZeRO-1)",
         .field = FIELD(processes.zero_stage), .unit = "STAGE", .low = 0, .high = 1},
        {.name = "rank", .group = kProcesses,
         .help = "number of this process, from 0, where no mpirun, torchrun or srun says it",
         .field = FIELD(processes.world.rank), .unit = "RANK", .low = -1, .high = 1 << 20, .default_text = "the launcher's",
         .off = -1, .stored = false},
        {.name = "world-size", .group = kProcesses, .help = "number of processes of the run; with --dry-run, to plan for",
         .field = FIELD(processes.world.world_size), .unit = "PROCESSES", .low = 0, .high = 1 << 20,
         .default_text = "the launcher's, or 1", .off = 0, .stored = false},
        {.name = "master", .group = kProcesses, .help = "host and free port where rank 0 waits for the others",
         .field = FIELD(processes.world.master), .unit = "HOST:PORT", .default_text = "the launcher's", .stored = false},
        {.name = "rank-timeout", .group = kProcesses,
         .help = "seconds to wait for a process that does not come or gives no sign of life, before all end",
         .field = FIELD(processes.world.timeout), .unit = "SECONDS", .low = 1, .high = 1e6, .stored = false},
    };
}
// clang-format on

#undef FIELD

}  // namespace

const std::vector<Option>& options() {
    static const std::vector<Option> table = [] {
        std::vector<Option> all;
        for (auto group : {data_options, model_options, length_options, mup_options, optimizer_options,
                           evaluation_options, output_options, machine_options, process_options})
            for (Option& option : group()) all.push_back(std::move(option));
        return all;
    }();
    return table;
}

// GPT-2: Radford et al. 2019. GPT-3: Brown et al. 2020, Table 2.1; of 13B width 5120, because the paper's 5140 is not
// divisible by its 40 heads.
const std::vector<Preset>& presets() {
    static const std::vector<Preset> table = {
        {"gpt2", 12, 768, 12, 1024},       {"gpt2-medium", 24, 1024, 16, 1024}, {"gpt2-large", 36, 1280, 20, 1024},
        {"gpt2-xl", 48, 1600, 25, 1024},   {"gpt3-125m", 12, 768, 12, 2048},    {"gpt3-350m", 24, 1024, 16, 2048},
        {"gpt3-760m", 24, 1536, 16, 2048}, {"gpt3-1.3b", 24, 2048, 16, 2048},   {"gpt3-2.7b", 32, 2560, 32, 2048},
        {"gpt3-6.7b", 32, 4096, 32, 2048}, {"gpt3-13b", 40, 5120, 40, 2048},
    };
    return table;
}

}  // namespace llmc
