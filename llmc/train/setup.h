// From options to the pieces of a run: data, model shape, rules, length; and what --dry-run prints of them. Nothing is
// written or trained here.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include "llmc/data/dataloader.h"
#include "llmc/data/tokenizer.h"
#include "llmc/mup/parametrization.h"
#include "llmc/train/checkpoint/checkpoint.h"
#include "llmc/train/options.h"

namespace llmc {

struct Setup {
    Config config;  // completed: shape of --init, batch, tokenizer
    ModelShape shape;
    DType dtype;
    std::optional<std::string> resume_from;  // checkpoint folder
    std::unique_ptr<ModelFile> weights;      // of --resume or --init; null: initialise
    std::unique_ptr<Dataset> train, val;     // null where not given
    int64_t steps = 0;
    std::string tokenizer, tokenizer_path;  // "byte", "gpt2" or "unknown"; tokenizer.bin
    std::unique_ptr<Parametrization> rules;
    std::vector<std::string> changed;  // options that --resume found changed, "lr: 0.01 -> 0.02"
};

// Refuses (usage and data errors) whatever cannot work, before anything is touched.
Setup prepare(const CommandLine& line);

// What the run needs of a model. `checked` throws when that is more memory than there is, and says what would fit.
GPT2Options model_options(const Setup& setup);
GPT2Options checked(const Setup& setup);

std::string describe(const Setup& setup);  // shapes, memory, tokens, FLOPs
nlohmann::ordered_json rules_json(const Setup& setup);
// The tokenizer for samples and prompts, or null with the reason in `why`.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& kind, const std::string& path, std::string& why);

}  // namespace llmc
