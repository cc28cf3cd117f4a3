#include "llmc/train/eval_command.h"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/train/checkpoint_model.h"
#include "llmc/train/choice_evaluation.h"
#include "llmc/train/evaluation.h"
#include "llmc/train/progress.h"
#include "llmc/train/setup.h"

namespace llmc {
namespace {

// Data error for text that the model cannot know.
void check_tokens(const Dataset& data, const ModelFile& file) {
    if (data.vocab_size() > file.shape.vocab_size)
        fail_data("the validation data has a vocabulary of ", data.vocab_size(), " tokens, the model of ",
                  file.shape.vocab_size, ": make the data with the tokenizer of ", file.path, ", or choose other data");
    const std::string here = data.tokenizer(), there = file.tokenizer;
    if (here != there && here != "unknown" && there != "unknown")
        fail_data("the validation data was made with the tokenizer ", here, ", the model ", file.path, " with ", there,
                  ": choose other data");
}

// Shows how much is done: on a terminal, or else on stderr, because standard output has the result alone.
class EvalProgress {
public:
    explicit EvalProgress(const char* what) : what_(what) {}

    SharedWork work() {
        return {.go_on = [this](int64_t done, int64_t batches) { return show(done, batches); }};
    }

private:
    bool show(int64_t done, int64_t batches) {
        const std::string text = str(what_, " ", done, "/", batches);
        if (isatty(STDOUT_FILENO)) {
            Progress::step({.steps = -1, .activity = text}, Progress::Line::fleeting);
        } else if (const auto now = std::chrono::steady_clock::now(); now - shown_ >= std::chrono::seconds(5)) {
            std::fprintf(stderr, "%s\n", text.c_str());
            shown_ = now;
        }
        return true;
    }

    const char* what_;
    std::chrono::steady_clock::time_point shown_ = std::chrono::steady_clock::now();
};

// Which windows the targets were read in.
std::string windows_text(const Config& config) {
    const int T = config.model.seq_len, stride = config.evaluation.stride.value_or(T);
    std::string text = str("windows ", plural(T, "token"), ", stride ", stride, ": a target has ");
    if (stride == T) return text + str("1 to ", plural(T, "token"), " of context");
    if (stride > 1) text += str(T - stride + 1, " to ");
    return text + str(T, " tokens of context, at the beginning of a shard fewer");
}

// Both write `heading` and their result, and throw if that is not finite.
void evaluate_data(CheckpointModel& opened, const Dataset& data, const std::string& heading) {
    const std::vector<Segment> segments = evaluation_segments(data, opened.config);
    EvalProgress progress("evaluating");
    const auto evaluation = evaluate(*opened.model, data, segments, progress.work());
    const int64_t all = data.tokens() - int64_t(data.shards().size());
    std::string text = str(heading, "data    ", with_commas(evaluation->targets), " of ", plural(all, "token"));
    if (evaluation->targets < all) text += " (--eval-tokens 0: all)";
    text += "\n" + windows_text(opened.config);
    text += "\nloss    " + decimals(evaluation->loss, 4) + " nats/token";
    if (evaluation->bits_per_byte) text += ", " + decimals(*evaluation->bits_per_byte, 4) + " bits/byte";
    char perplexity[64];
    std::snprintf(perplexity, sizeof perplexity, ", perplexity %.5g", std::exp(evaluation->loss));
    Progress::note(text + perplexity);
    if (!std::isfinite(evaluation->loss))
        throw Error(kExitDiverged, str("the loss of ", opened.file->path, " is not finite"));
}

void evaluate_choices(CheckpointModel& opened, const std::vector<ChoiceExample>& examples, const std::string& heading) {
    const Config& config = opened.config;
    const ChoiceEvaluation choices(examples, config.model.seq_len, config.run.batch_size);
    EvalProgress progress("hellaswag");
    const auto scores = choices.run(*opened.model, progress.work());
    Progress::note(heading + report(*scores, config.evaluation.hellaswag));
    if (!std::isfinite(scores->loss))
        throw Error(kExitDiverged,
                    str("the scores of ", opened.file->path, " on ", config.evaluation.hellaswag, " are not finite"));
}

}  // namespace

int eval_command(const CommandLine& line) {
    const DataOptions& given = line.config.data;
    if (given.val_data.empty() && line.config.evaluation.hellaswag.empty())
        fail_usage("--val-data is missing: name token shards to evaluate on, or examples with --hellaswag");
    CheckpointModel opened = open_model(line, ModelFile::open(line.checkpoint));
    Config& config = opened.config;
    config.evaluation = line.config.evaluation;
    check_stride(config);
    const ModelFile& file = *opened.file;
    const std::string tokenizer = given.tokenizer == TokenizerChoice::automatic ? file.tokenizer
                                                                                : name_of(given.tokenizer);
    std::unique_ptr<Dataset> data;
    if (!given.val_data.empty()) {
        data = std::make_unique<Dataset>(given.val_data, "--val-data", config.model.seq_len);
        check_tokens(*data, file);
        data->set_vocab_size(file.shape.vocab_size);
    }
    const auto examples = open_choices(config.evaluation, tokenizer, file.tokenizer_path, file.shape.vocab_size);
    const std::string heading = "weights " + file.path + "\n";
    if (data) evaluate_data(opened, *data, heading);
    if (!examples.empty()) evaluate_choices(opened, examples, data ? "" : heading);
    return kExitOk;
}

}  // namespace llmc
