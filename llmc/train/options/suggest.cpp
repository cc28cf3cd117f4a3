// "did you mean": names of options that resemble an unknown one.
#include <algorithm>

#include "llmc/core/error.h"
#include "llmc/train/options/option.h"

namespace llmc {
namespace {

int edit_distance(const std::string& a, const std::string& b) {
    std::vector<int> row(b.size() + 1);
    for (size_t j = 0; j <= b.size(); ++j) row[j] = int(j);
    for (size_t i = 1; i <= a.size(); ++i) {
        int diagonal = row[0];
        row[0] = int(i);
        for (size_t j = 1; j <= b.size(); ++j) {
            const int above = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
            diagonal = above;
        }
    }
    return row[b.size()];
}

// "block-size" of "--block_size=64".
std::string bare(std::string given) {
    given.erase(0, std::min(given.find_first_not_of('-'), given.size()));
    given = given.substr(0, given.find('='));
    std::replace(given.begin(), given.end(), '_', '-');
    for (char& c : given)
        if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
    return given;
}

// The option whose name, or name in another program, is nearest; null if none is near.
const Option* nearest(const std::string& word, Scope scope) {
    const Option* best = nullptr;
    int best_distance = std::min<int>(4, int(word.size() + 1) / 2);  // short words resemble everything
    const auto compare = [&](const std::string& name, const Option& option) {
        if (const int d = edit_distance(word, name); d < best_distance) best = &option, best_distance = d;
    };
    for (const Option& option : options())
        if (option.scope & scope) compare(option.name, option);
    for (const OtherNames& other : other_names()) {
        const Option& option = *find_option(other.option);
        if (option.scope & scope)
            for (const char* name : other.names) compare(name, option);
    }
    return best;
}

}  // namespace

const std::vector<OtherNames>& other_names() {
    static const std::vector<OtherNames> table = {
        {"train-data",
         {"data", "dataset", "data-dir", "data-path", "dataset-path", "input-bin", "train-bin", "train-file",
          "train-files"}},
        {"val-data",
         {"input-val-bin", "val-bin", "val-file", "val-files", "valid-data", "validation-data", "validation-file",
          "eval-data", "test-data"}},
        {"tokenizer", {"tokenizer-name", "tokenizer-type", "encoding"}},
        {"overfit-single-batch", {"overfit", "overfit-batches", "single-batch"}},
        {"preset", {"model-type", "model-size", "size"}},
        {"init",
         {"init-from", "init-checkpoint", "from-pretrained", "pretrained", "load", "load-checkpoint", "checkpoint",
          "model", "model-name-or-path", "weights"}},
        {"depth", {"n-layer", "n-layers", "num-layers", "num-layer", "num-hidden-layers", "layers", "blocks"}},
        {"width",
         {"n-embd", "n-embed", "d-model", "dim", "embed-dim", "embedding-dim", "model-dim", "hidden-dim", "hidden-size",
          "channels", "n-channels"}},
        {"heads", {"n-head", "n-heads", "num-heads", "num-head", "num-attention-heads", "attention-heads", "nheads"}},
        {"head-dim", {"d-head", "dim-head", "head-size", "kv-channels"}},
        {"seq-len",
         {"block-size", "context-length", "context", "context-size", "n-ctx", "n-positions", "seq-length",
          "sequence-length", "max-length", "max-seq-len", "max-seq-length", "max-position-embeddings"}},
        {"vocab-size", {"n-vocab", "vocab", "num-vocab"}},
        {"tie-embeddings", {"tie-word-embeddings", "tie-weights", "weight-tying", "tied-embeddings"}},
        {"dtype", {"precision", "mixed-precision", "amp", "bf16", "fp16", "torch-dtype"}},
        {"recompute",
         {"gradient-checkpointing", "activation-checkpointing", "checkpoint-activations", "recompute-activations"}},
        {"batch-size",
         {"batch", "micro-batch-size", "device-batch-size", "per-device-batch-size", "per-device-train-batch-size",
          "train-batch-size", "bsz"}},
        {"total-batch-size",
         {"global-batch-size", "grad-accum", "grad-accum-steps", "gradient-accumulation-steps",
          "accumulate-grad-batches", "tokens-per-step"}},
        {"steps",
         {"max-steps", "max-iters", "iters", "iterations", "num-iterations", "num-steps", "train-steps", "train-iters",
          "total-steps", "num-train-steps"}},
        {"tokens", {"max-tokens", "train-tokens", "num-tokens", "total-tokens", "token-budget"}},
        {"epochs", {"max-epochs", "num-epochs", "num-train-epochs", "n-epochs"}},
        {"parametrization", {"parameterization", "mup", "use-mup", "mup-enabled", "scheme"}},
        {"base-width",
         {"mup-base-width", "base-shapes", "mup-base-dim", "base-dim", "width-mult", "mup-width-multiplier"}},
        {"attn-mult", {"attention-mult", "mup-attn-mult", "attn-scale"}},
        {"output-mult", {"mup-output-alpha", "output-alpha", "output-scale", "mup-output-mult", "logit-scale"}},
        {"embed-mult",
         {"mup-input-alpha", "input-alpha", "embedding-mult", "emb-mult", "embedding-scale", "input-mult"}},
        {"init-std", {"initializer-range", "init-method-std", "weight-init-std", "std"}},
        {"zero-init-query", {"query-zero-init"}},
        {"zero-init-head", {"readout-zero-init", "zero-init-output"}},
        {"optimizer", {"optim", "optimizer-type", "opt"}},
        {"lr", {"learning-rate", "max-lr", "peak-lr", "base-lr", "alpha"}},
        {"warmup-steps",
         {"warmup", "warmup-iters", "warmup-iterations", "num-warmup-steps", "lr-warmup-steps", "lr-warmup-iters"}},
        {"schedule", {"lr-schedule", "lr-scheduler", "lr-scheduler-type", "scheduler", "lr-decay-style", "decay-lr"}},
        {"final-lr-frac",
         {"min-lr", "min-lr-ratio", "min-lr-frac", "lr-min", "final-lr", "final-learning-rate-frac",
          "learning-rate-decay-frac"}},
        {"weight-decay", {"wd", "l2", "decay"}},
        {"beta1", {"adam-beta1", "adam-beta-1"}},
        {"beta2", {"adam-beta2", "adam-beta-2"}},
        {"eps", {"adam-eps", "adam-epsilon", "epsilon"}},
        {"grad-clip",
         {"clip", "clip-grad", "clip-norm", "gradient-clip", "gradient-clip-val", "gradient-clipping", "max-grad-norm",
          "max-norm"}},
        {"skip-loss-zscore", {"sl", "skip-update-lossz"}},
        {"skip-grad-zscore", {"sg", "skip-update-gradz"}},
        {"eval-every",
         {"eval-interval", "eval-steps", "eval-iters-every", "evaluation-steps", "val-every", "val-interval",
          "val-loss-every", "val-check-interval", "validation-interval"}},
        {"eval-tokens",
         {"eval-iters", "val-iters", "val-tokens", "val-batches", "val-max-steps", "max-eval-batches", "max-eval-steps",
          "limit-val-batches"}},
        {"eval-stride", {"stride", "window-stride"}},
        {"sample-every", {"sample-interval", "generate-every"}},
        {"prompt", {"start", "text", "input-text"}},
        {"temperature", {"temp"}},
        {"top-p", {"nucleus", "nucleus-p", "topp"}},
        {"repetition-penalty", {"penalty", "repeat-penalty", "rep-pen", "repetition"}},
        {"sample-tokens", {"max-new-tokens", "num-new-tokens", "genlen", "generate-length", "length", "n-predict"}},
        {"stop", {"stop-string", "stop-strings", "stop-sequence", "stop-sequences", "until"}},
        {"samples", {"num-samples", "n-samples", "num-return-sequences"}},
        {"out",
         {"out-dir", "outdir", "output", "output-dir", "output-log-dir", "save", "save-dir", "save-path", "log-dir",
          "logdir", "run-dir"}},
        {"overwrite", {"overwrite-output-dir", "force"}},
        {"resume", {"resume-from", "resume-from-checkpoint", "continue", "restart"}},
        {"checkpoint-every",
         {"save-interval", "save-every", "save-steps", "save-freq", "checkpoint-interval", "checkpoint-frequency",
          "ckpt-every"}},
        {"keep", {"save-total-limit", "keep-last", "keep-checkpoints", "max-checkpoints"}},
        {"coord-check", {"coordinate-check", "coord-check-file"}},
        {"seed", {"random-seed", "manual-seed"}},
        {"threads", {"num-threads", "n-threads", "nthreads", "num-workers", "cpus"}},
    };
    return table;
}

std::string nearest_option(const std::string& given, Scope scope, NameStyle style) {
    const std::string word = bare(given);
    const auto meant = [&](const std::string& text) { return "; did you mean " + text + "?"; };
    if (word.starts_with("no-")) {  // --no-shufle; no-shuffle = true in a file
        const Option* option = nearest(word.substr(3), scope);
        if (option && !option->takes_value())
            return meant(style == NameStyle::command_line ? str("--no-", option->name)
                         : style == NameStyle::toml       ? str(option->name, " = false")
                                                          : option->key() + "=False");
    }
    const Option* option = nearest(word, scope);
    if (!option) return style == NameStyle::python ? "" : "; --help lists the options";
    return meant(style == NameStyle::command_line ? str("--", option->name)
                 : style == NameStyle::toml       ? option->name
                                                  : option->key());
}

std::string nearest_argument(const std::string& given, const std::vector<std::string>& commands, Scope scope) {
    for (const std::string& command : commands)
        if (given.size() > 3 && edit_distance(given, command) <= 2) return "; did you mean " + command + "?";
    return nearest_option(given, scope, NameStyle::command_line);
}

}  // namespace llmc
