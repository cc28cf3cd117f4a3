#include "llmc/train/eval_command.h"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/train/checkpoint_model.h"
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
    explicit EvalProgress(size_t segments) : segments_(segments) {}

    void show(int64_t done) {
        const std::string text = str("evaluating ", done, "/", segments_);
        if (isatty(STDOUT_FILENO)) {
            Progress::step({.steps = -1, .activity = text}, Progress::Line::fleeting);
        } else if (const auto now = std::chrono::steady_clock::now(); now - shown_ >= std::chrono::seconds(5)) {
            std::fprintf(stderr, "%s\n", text.c_str());
            shown_ = now;
        }
    }

private:
    size_t segments_;
    std::chrono::steady_clock::time_point shown_ = std::chrono::steady_clock::now();
};

}  // namespace

int eval_command(const CommandLine& line) {
    if (line.config.data.val_data.empty()) fail_usage("--val-data is missing: name token shards to evaluate on");
    CheckpointModel opened = open_model(line, ModelFile::open(line.checkpoint));
    Config& config = opened.config;
    config.evaluation = line.config.evaluation;
    Dataset data(line.config.data.val_data, "--val-data", config.model.seq_len);
    check_tokens(data, *opened.file);
    data.set_vocab_size(opened.file->shape.vocab_size);

    const std::vector<Segment> segments = evaluation_segments(data, config);
    EvalProgress progress(segments.size());
    const auto evaluation = evaluate(*opened.model, data, segments, [&](int64_t done) {
        progress.show(done);
        return true;
    });
    const int64_t all = data.tokens() - int64_t(data.shards().size());
    std::string text = str("weights ", opened.file->path, "\ndata    ", with_commas(evaluation->targets), " of ",
                           plural(all, "token"));
    if (evaluation->targets < all) text += " (--eval-tokens 0: all)";
    text += "\nloss    " + decimals(evaluation->loss, 4) + " nats/token";
    if (evaluation->bits_per_byte) text += ", " + decimals(*evaluation->bits_per_byte, 4) + " bits/byte";
    char perplexity[64];
    std::snprintf(perplexity, sizeof perplexity, ", perplexity %.5g", std::exp(evaluation->loss));
    Progress::note(text + perplexity);
    if (!std::isfinite(evaluation->loss))
        throw Error(kExitDiverged, str("the loss of ", opened.file->path, " is not finite"));
    return kExitOk;
}

}  // namespace llmc
