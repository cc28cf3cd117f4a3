#include "llmc/train/setup.h"

#include <algorithm>
#include <filesystem>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/train/resume.h"
#include "llmc/train/warnings.h"

namespace llmc {
namespace {

namespace fs = std::filesystem;

bool is_one_of(const std::string& key, std::initializer_list<const char*> list) {
    return std::find(list.begin(), list.end(), key) != list.end();
}

// Compares options: some must be those of the checkpoint; changes of the others are recorded.
void compare_with_checkpoint(Setup& s) {
    const nlohmann::ordered_json now = to_json(s.config);
    const nlohmann::json& then = s.weights->config;
    for (auto& [key, value] : now.items()) {
        if (!then.is_object() || !then.contains(key)) continue;
        if (then.at(key) == value || (value.is_array() && as_list(then.at(key)) == value)) continue;
        if (is_one_of(key, {"optimizer", "dtype", "seq_len", "parametrization"}))
            fail_data("--resume: the checkpoint ", *s.resume_from, " has ", key, " = ", then.at(key).dump(),
                      ", this run ", value.dump(), ": give the same, or start a new run with --init and another --out");
        if (!is_one_of(key, {"resume", "overwrite", "out", "init", "threads"}))
            s.changed.push_back(str(key, ": ", then.at(key).dump(), " -> ", value.dump()));
    }
    if (s.weights->step > s.steps)
        fail_usage("--resume: the checkpoint is at step ", s.weights->step, ", beyond the ", plural(s.steps, "step"),
                   " asked for: raise --steps");
}

void find_checkpoint(Setup& s, const std::vector<DamagedCheckpoint>& damaged) {
    const std::string& out = s.config.output.out;
    const IntactCheckpoint found = newest_intact_checkpoint(out, {.known = damaged});
    s.resume_from = found.folder;
    s.damaged = found.damaged;
    if (s.damaged.empty()) return;
    const DamagedCheckpoint& newest = s.damaged.front();
    if (!found.folder)
        fail_data("--resume: no checkpoint in ", out, " is intact: ", newest.reason, "; delete ", newest.folder,
                  " to start at step 0");
    for (const DamagedCheckpoint& d : s.damaged)
        s.warnings.push_back(
            str("the checkpoint ", d.folder, " is damaged (", d.reason, "): going on from ", *found.folder));
}

// Another data set has another order: the position in it would mean other text.
void compare_data(Setup& s) {
    const std::pair<const char*, std::string> changes[] = {
        {"training", difference(s.start.train_data, fingerprint(s.train.get()))},
        {"validation", difference(s.start.val_data, fingerprint(s.val.get()))}};
    for (const auto& [which, change] : changes) {
        if (change.empty()) continue;
        if (!s.config.output.allow_data_change)
            fail_data("--resume: the ", which, " data is not that of the checkpoint ", *s.resume_from, ": ", change,
                      "; give the same data, or --allow-data-change to go on with this");
        s.changed.push_back(str(which, " data: ", change));
    }
}

void open_data(Setup& s, bool required) {
    const DataOptions& d = s.config.data;
    const int seq_len = s.config.model.seq_len;
    if (!d.train_data.empty() || required) s.train = std::make_unique<Dataset>(d.train_data, "--train-data", seq_len);
    if (!d.val_data.empty()) s.val = std::make_unique<Dataset>(d.val_data, "--val-data", seq_len);
    for (const Dataset* data : {s.train.get(), s.val.get()})
        if (data) s.notes.insert(s.notes.end(), data->notes().begin(), data->notes().end());
    if (s.train && s.val &&
        (s.train->vocab_size() != s.val->vocab_size() || s.train->tokenizer() != s.val->tokenizer()))
        fail_data("--train-data and --val-data were made with different tokenizers or vocabularies (",
                  s.train->tokenizer(), " and ", s.val->tokenizer(), ")");
}

// Every token must be in the model's vocabulary.
void check_vocabulary(Setup& s) {
    const int data_vocab = s.train ? s.train->vocab_size() : 0, vocab_size = s.config.model.vocab_size;
    if (data_vocab > vocab_size)
        fail_data("the training data has a vocabulary of ", data_vocab, " tokens, the model of ", vocab_size, ": ",
                  s.weights ? str("make the data with the tokenizer of ", s.weights->path) : "raise --vocab-size",
                  ", or choose other data");
    for (Dataset* d : {s.train.get(), s.val.get()})
        if (d) d->set_vocab_size(vocab_size);
}

void choose_tokenizer(Setup& s) {
    const std::string of_data = s.train ? s.train->tokenizer() : s.weights ? s.weights->tokenizer : "unknown";
    s.tokenizer = s.config.data.tokenizer != TokenizerChoice::automatic ? name_of(s.config.data.tokenizer) : of_data;
    if (s.tokenizer == "unknown" && s.config.model.vocab_size == kGpt2VocabSize)
        s.tokenizer = "gpt2";  // llm.c's own shards do not name it
    if (s.tokenizer != "gpt2") return;
    if (s.train) s.tokenizer_path = Tokenizer::find(fs::path(s.train->shards()[0].path).parent_path().string());
    if (s.tokenizer_path.empty() && s.weights) s.tokenizer_path = s.weights->tokenizer_path;
}

}  // namespace

int64_t length_in_steps(const Config& config, const Dataset* train, const TrainingState& start) {
    const RunOptions& c = config.run;
    if (c.steps >= 0) return c.steps;
    // Steps before a --resume may have had another batch size.
    if (c.tokens >= 0) {
        const int64_t left = c.tokens - start.tokens;
        if (left <= -c.total_batch_size)
            fail_usage("--resume: the checkpoint has seen ", plural(start.tokens, "token"), ", beyond --tokens ",
                       c.tokens, ": raise --tokens");
        return start.step + std::max<int64_t>(0, (left + c.total_batch_size - 1) / c.total_batch_size);
    }
    if (!train) return 0;
    const double epochs = c.epochs >= 0 ? c.epochs : 1, samples = epochs * double(train->windows());
    const int64_t samples_per_step = c.total_batch_size / config.model.seq_len;
    const bool same = start.samples == start.step * samples_per_step;
    const int64_t steps = same ? int64_t(samples / double(samples_per_step))
                               : start.step +
                                     int64_t(std::max(0.0, samples - double(start.samples)) / double(samples_per_step));
    return std::max<int64_t>(c.epochs == 0 ? 0 : 1, steps);
}

void check_stride(const Config& config) {
    const int stride = config.evaluation.stride.value_or(1), T = config.model.seq_len;
    if (stride > T)
        fail_usage("--eval-stride ", stride, " is longer than a window, --seq-len ", T,
                   ", and would leave targets out: give at most ", T);
}

std::vector<Segment> evaluation_segments(const Dataset& val, const Config& config) {
    const EvaluationOptions& e = config.evaluation;
    const int B = config.run.batch_size, stride = e.stride.value_or(config.model.seq_len);
    return e.batches ? val.first_windows(*e.batches * B, B)
                     : val.first_targets(e.tokens.value_or(kEvalTokens), B, stride);
}

void check_unused(const Config& config) {
    const std::string& out = config.output.out;
    const bool used = fs::exists(fs::path(out) / "log.jsonl") || newest_checkpoint(out);
    if (!out.empty() && used && !config.output.resume && !config.output.overwrite)
        fail_usage("--out ", out,
                   " holds an earlier run: continue it (--resume), delete it (--overwrite), or choose "
                   "another folder");
}

Setup prepare(const CommandLine& line, const World& world, const std::vector<DamagedCheckpoint>& damaged) {
    Setup s;
    s.rank = world.rank, s.ranks = world.size;
    s.config = line.config;
    Config& c = s.config;
    const std::string& out = c.output.out;
    if (!line.dry_run && s.rank == 0) s.lock.take_existing(out);
    if (c.output.resume) find_checkpoint(s, damaged);
    if (s.resume_from)
        s.weights = ModelFile::open(*s.resume_from);
    else if (!c.model.init.empty())
        s.weights = ModelFile::open(c.model.init);
    if (s.weights) {
        const std::string taken = s.resume_from ? "" : take_parametrization(c, line.given, *s.weights);
        validate_scheme(c, line.given);
        s.shape = take_shape(c, line.given, *s.weights);
        if (!taken.empty()) s.notes.push_back(taken);
        for (const std::string& note : assumptions(*s.weights, line.given)) s.notes.push_back(note);
    }
    resolve_batch(c, s.ranks);
    open_data(s, !line.dry_run && c.run.steps != 0);
    if (!s.weights) s.shape = new_shape(c, s.train ? s.train->vocab_size() : 0);
    check_vocabulary(s);
    check_stride(c);
    if (!c.output.coord_check.empty() && s.ranks > 1)
        fail_usage("--coord-check ", c.output.coord_check, " looks at one process, this run has ", s.ranks,
                   ": start one");
    choose_tokenizer(s);
    s.choices = open_choices(c.evaluation, s.tokenizer, s.tokenizer_path, c.model.vocab_size);
    if (s.resume_from) s.start = read_training_state(*s.resume_from);
    s.steps = length_in_steps(c, s.train.get(), s.start);
    if (s.resume_from) {
        s.finished = why_finished(out, c, s.weights->step, s.steps);
        compare_with_checkpoint(s);
        if (s.finished.empty()) compare_data(s);
    }
    s.rules = std::make_unique<Parametrization>(make_rules(c, s.shape));
    if (!line.dry_run) check_unused(c);
    for (const std::string& warning : warnings_of(s)) s.warnings.push_back(warning);
    return s;
}

nlohmann::ordered_json rules_json(const Setup& s) { return s.rules->to_json(tensor_specs(s.shape)); }

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& kind, const std::string& path, std::string& why) {
    if (kind == "byte") return std::make_unique<Tokenizer>(Tokenizer::byte());
    if (kind == "gpt2" && !path.empty()) return std::make_unique<Tokenizer>(Tokenizer::load(path));
    why = kind == "gpt2"
              ? "GPT-2's vocabulary is neither beside the training data nor beside the weights: put tokenizer.bin "
                "(.venv/bin/python dev/data/tokenizer.py FOLDER, or llmc data tokenizer FOLDER), vocab.json or "
                "tokenizer.json there"
              : "the data does not say which tokenizer made it (give --tokenizer)";
    return nullptr;
}

std::vector<ChoiceExample> open_choices(const EvaluationOptions& options, const std::string& tokenizer,
                                        const std::string& tokenizer_path, int64_t vocab_size) {
    const std::string& path = options.hellaswag;
    if (path.empty()) return {};
    const auto open = [&] {
        std::string why;
        std::unique_ptr<Tokenizer> opened = open_tokenizer(tokenizer, tokenizer_path, why);
        if (!opened) fail_data("--hellaswag ", path, " is text, which needs the model's tokenizer: ", why);
        return opened;
    };
    return read_choices(path, options.hellaswag_limit, {tokenizer, vocab_size, open});
}

}  // namespace llmc
