#include "llmc/train/checkpoint/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "llmc/core/error.h"
#include "llmc/data/tokenizer.h"
#include "llmc/train/checkpoint/layout.h"
#include "llmc/train/checkpoint/own_metadata.h"
#include "llmc/train/checkpoint/plain_gpt2.h"
#include "llmc/train/checkpoint/run_folder.h"
#include "llmc/train/checkpoint/safetensors.h"

namespace llmc {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char *kFormat = "pt",  // transformers 4.57 refuses files without it
    *kWriter = "llmc-mup 1";

// A tensor as stored in the file. Transposed tensors are converted as a whole, others a few megabytes at a time.
SafetensorsEntry entry_of(const std::string& name, const TensorSpec& spec, DType dtype, Tensor tensor) {
    if (stored_transposed(spec))
        return {name, dtype, stored_shape(spec), spec.count(), [=, &spec](int64_t, int64_t count) {
                    return transposed(download(tensor, count), spec.shape[0], spec.shape[1]);
                }};
    return {name, dtype, spec.shape, int64_t{1} << 20,
            [=](int64_t begin, int64_t count) { return download(tensor.slice(begin, count), count); }};
}
void sync_folder(const fs::path& folder) {
    const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY);
    if (fd < 0 || fsync(fd) != 0) {
        if (fd >= 0) close(fd);
        fail("cannot sync the folder ", folder.string(), ": ", std::strerror(errno));
    }
    close(fd);
}

// Atomic: at every moment `final` is absent, the earlier checkpoint of that step, or the new one.
void commit(const fs::path& temporary, const fs::path& final) {
    if (!fs::exists(final)) return fs::rename(temporary, final);
    if (renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, final.c_str(), RENAME_EXCHANGE) != 0)
        fail("cannot replace the checkpoint ", final.string(), ": ", std::strerror(errno),
             "; delete it, or choose another --out");
    fs::remove_all(temporary);
}

void write_text(const fs::path& path, const std::string& text) {
    std::ofstream out(path);
    if (!(out << text << std::flush)) fail("cannot write ", path.string(), "; earlier checkpoints are intact");
}

// model.safetensors, and config.json for a plain GPT-2.
void write_model(const fs::path& folder, GPT2& model, const TrainingState& state, const CheckpointMetadata& metadata) {
    const std::string outside = factors_outside(metadata.parametrization, model.shape.head_dim());
    if (outside.empty())
        write_text(folder / "config.json", config_json(model.shape, model.parameters.dtype(), metadata.tokenizer));
    std::vector<SafetensorsEntry> entries;
    for (Parameter& p : model.parameters.all())
        entries.push_back(entry_of(p.spec.name, p.spec, p.value.dtype, p.value));
    write_safetensors(folder / "model.safetensors", entries,
                      {{"format", kFormat},
                       {"writer", kWriter},
                       {"plain_gpt2", outside.empty() ? "yes" : "no: " + outside},
                       {"step", std::to_string(state.step)},
                       {"config", metadata.config.dump()},
                       {"model", metadata.model.dump()},
                       {"parametrization", metadata.parametrization.dump()},
                       {"tokenizer", metadata.tokenizer},
                       {"provenance", metadata.provenance.dump()}});
}

json to_json(const Best& best) {
    if (best.step < 0) return nullptr;
    return {{"step", best.step}, {"val_loss", best.val_loss}, {"evaluations_since", best.evaluations_since}};
}

void write_optimizer(const fs::path& path, const Optimizer& optimizer, const TrainingState& state, const json& config) {
    std::vector<SafetensorsEntry> entries;
    for (const Optimizer::State& s : optimizer.state())
        entries.push_back(entry_of(s.name, s.parameter->spec, DType::f32, s.value));
    const json remembered = {{"samples", state.samples},
                             {"tokens", state.tokens},
                             {"updates", state.updates},
                             {"seed", config.at("seed")},
                             {"optimizer", config.at("optimizer")},
                             {"outlier", {{"loss", state.loss_window}, {"grad_norm", state.grad_norm_window}}},
                             {"data", {{"train", state.train_data}, {"val", state.val_data}}},
                             {"evaluated_at", state.evaluated_at},
                             {"best", to_json(state.best)}};
    write_safetensors(
        path, entries,
        {{"format", kFormat}, {"writer", kWriter}, {"step", std::to_string(state.step)}, {"state", remembered.dump()}});
}

}  // namespace

nlohmann::ordered_json to_json(const ModelShape& s) {
    return {{"num_layers", s.depth},        {"num_heads", s.heads},       {"channels", s.width},
            {"max_seq_len", s.max_seq_len}, {"vocab_size", s.vocab_size}, {"tie_embeddings", s.tie_embeddings}};
}

std::string save_checkpoint(const std::string& out, GPT2& model, const Optimizer& optimizer, const TrainingState& state,
                            const CheckpointMetadata& metadata) {
    const std::string name = checkpoint_name(state.step);
    const fs::path folder = fs::path(out) / "checkpoints", final = folder / name, temporary = folder / (".tmp-" + name);
    try {
        fs::create_directories(folder);
        fs::remove_all(temporary);
        fs::create_directory(temporary);
        write_model(temporary, model, state, metadata);
        write_optimizer(temporary / "optimizer.safetensors", optimizer, state, metadata.config);
        if (!metadata.tokenizer_path.empty())
            Tokenizer::load(metadata.tokenizer_path).save((temporary / "tokenizer.bin").string());
        sync_folder(temporary);
        commit(temporary, final);
        sync_folder(folder);
    } catch (const fs::filesystem_error& error) {
        std::error_code ignored;
        fs::remove_all(temporary, ignored);
        fail("cannot write the checkpoint ", final.string(), ": ", error.code().message());
    } catch (const Error&) {
        std::error_code ignored;
        fs::remove_all(temporary, ignored);
        throw;
    }
    return final.string();
}

namespace {

TrainingState state_in(const SafetensorsFile& file) {
    const json remembered = parse_metadata(file, "state");
    TrainingState state;
    try {
        state.step = step_of(file);
        state.samples = remembered.at("samples");
        state.tokens = remembered.at("tokens");
        state.updates = remembered.at("updates");
        state.loss_window = remembered.at("outlier").at("loss").get<std::vector<double>>();
        state.grad_norm_window = remembered.at("outlier").at("grad_norm").get<std::vector<double>>();
        if (remembered.contains("data")) {  // checkpoints of earlier versions have none
            state.train_data = remembered.at("data").at("train");
            state.val_data = remembered.at("data").at("val");
        }
        state.evaluated_at = remembered.value("evaluated_at", int64_t{-1});
        if (const json best = remembered.value("best", json()); !best.is_null())
            state.best = {best.at("step"), best.at("val_loss"), best.at("evaluations_since")};
    } catch (const std::exception& error) {
        fail_damaged(file.path, " is damaged: its metadata 'state' is incomplete (", error.what(), ")");
    }
    return state;
}

SafetensorsFile optimizer_file(const std::string& folder) {
    const fs::path path = fs::path(folder) / "optimizer.safetensors";
    if (!fs::exists(path)) fail_damaged("cannot open the checkpoint ", path.string(), ": ", std::strerror(ENOENT));
    return SafetensorsFile(path.string());
}

}  // namespace

TrainingState read_training_state(const std::string& folder) { return state_in(optimizer_file(folder)); }

void check_complete(const ModelFile& model, bool values) {
    const SafetensorsFile optimizer = optimizer_file(fs::path(model.path).parent_path().string());
    const int64_t step = state_in(optimizer).step;
    if (model.step != step) fail_damaged("its files are of the steps ", model.step, " and ", step);
    if (!model.config.is_object()) return;  // not of this project
    std::vector<std::string> prefixes = {"m."};
    if (model.config.value("optimizer", json()) == "adamw") prefixes.push_back("v.");
    if (model.config.value("dtype", json()) == "bf16") prefixes.push_back("master.");
    for (const TensorSpec& spec : tensor_specs(model.shape)) {
        if (values)
            model.values(spec);
        else
            model.check(spec);
        for (const std::string& prefix : prefixes) {
            if (values)
                optimizer.read(prefix + spec.name, stored_shape(spec));
            else
                optimizer.find(prefix + spec.name, stored_shape(spec));
        }
    }
}

TrainingState load_training_state(const std::string& folder, Optimizer& optimizer) {
    const SafetensorsFile file = optimizer_file(folder);
    const TrainingState state = state_in(file);
    for (const Optimizer::State& s : optimizer.state()) {
        const TensorSpec& spec = s.parameter->spec;
        upload(s.value, from_stored(spec, file.read(s.name, stored_shape(spec))));
    }
    return state;
}

}  // namespace llmc
