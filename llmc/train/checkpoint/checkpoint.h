// Checkpoints (doc/formats.md): a folder with the model, the optimizer's state and the position in the data, committed
// by one rename.
#pragma once
#include <cmath>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>
#include "llmc/gpt2/gpt2.h"
#include "llmc/train/data_parallel.h"
#include "llmc/train/optimizer.h"

namespace llmc {

// The evaluation with the least validation loss.
struct Best {
    int64_t step = -1;  // -1: none
    double val_loss = INFINITY;
    int64_t evaluations_since = 0;
};

// The state of a training run besides its tensors.
struct TrainingState {
    int64_t step = 0;     // optimizer steps done, skipped ones included
    int64_t updates = 0;  // steps that changed the weights: AdamW's bias correction counts these
    int64_t samples = 0;  // sequences consumed
    int64_t tokens = 0;
    std::vector<double> loss_window, grad_norm_window;  // of the outlier detectors
    nlohmann::json train_data, val_data;                // fingerprints (resume.h); null: not known
    int64_t evaluated_at = -1;                          // the step of the last evaluation
    Best best;
};

// A model file that can be read: this project's checkpoint folder or .safetensors, Hugging Face's GPT-2, or llm.c's
// .bin.
class ModelFile {
public:
    virtual ~ModelFile() = default;
    // A checkpoint's folder, a file, or the folder of a run. If it is a damaged checkpoint of a run, the error names
    // an older one that is intact.
    static std::unique_ptr<ModelFile> open(const std::string& path);
    static std::unique_ptr<ModelFile> open_file(const std::string& path);

    ModelShape shape{};
    std::string path;
    int64_t bytes = 0;                       // of all files with weights
    bool heads_known = true;                 // false: assumed from GPT-2's head size of 64
    std::string tie_note;                    // that the head is assumed to be the embedding, too; else empty
    std::string cut_note;                    // that rows of padding are left out; else empty
    bool scaled_attention = true;            // false: a standard GPT-2 whose logits are q.k, without 1/sqrt(head size)
    bool head_optional = false;              // the file has a head that equals wte: tied or not, as one likes
    nlohmann::json parametrization, config;  // null if the file has none
    int64_t step = 0;                        // optimizer steps done
    std::string tokenizer = "unknown";
    std::string tokenizer_path;                                           // Tokenizer::find beside the weights
    virtual void check(const TensorSpec&) const {}                        // data error if the header has no such tensor
    virtual std::vector<float> values(const TensorSpec& spec) const = 0;  // (out, in), without padding rows
};

// Copies the weights. Data error if the model would compute another function, under another parametrization.
void load_weights(const ModelFile& file, GPT2& model);

// Calls `read`. If it finds that a file is damaged, and `path` is a checkpoint of a run, a file of one, or the folder of
// a run, the error also names an older checkpoint that is intact.
void naming_intact(const std::string& path, const std::function<void()>& read);

struct CheckpointMetadata {
    nlohmann::ordered_json config, model, parametrization, provenance;
    std::string tokenizer, tokenizer_path;
};
// Writes OUT/checkpoints/step_XXXXXXXX. Returns the folder. If it fails, the checkpoints are unchanged.
// ranks: the processes that write it together, each its part at the same time; all of them call this. The files do not
// depend on their number.
std::string save_checkpoint(const std::string& out, GPT2& model, const Optimizer& optimizer, const TrainingState& state,
                            const CheckpointMetadata& metadata, DataParallel* ranks = nullptr);
// The state without its tensors, from a checkpoint folder.
TrainingState read_training_state(const std::string& folder);
// Throws a DamageError unless the model and the optimizer file beside it are of one step and have all tensors; with
// `values`, all tensors are read, because one may hold a number that is not finite.
void check_complete(const ModelFile& model, bool values);
// Moments, masters (the parts that the optimizer has) and state, after load_weights.
TrainingState load_training_state(const std::string& folder, Optimizer& optimizer);

nlohmann::ordered_json to_json(const ModelShape& shape);
std::unique_ptr<ModelFile> open_llmc_model(const std::string& path);  // llm_c_format.cpp
class WeightFiles;
// foreign_model.cpp; folder: of config.json
std::unique_ptr<ModelFile> open_foreign_model(std::shared_ptr<const WeightFiles> files, const std::string& folder);

}  // namespace llmc
