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

// A checkpoint that is being written: both files with their tensors.
struct Files {
    fs::path folder;
    std::string outside;  // why it is no plain GPT-2; empty if it is one
    std::vector<SafetensorsEntry> model, optimizer;
    std::map<std::string, std::string> model_metadata, optimizer_metadata;
    std::string model_path() const { return folder / "model.safetensors"; }
    std::string optimizer_path() const { return folder / "optimizer.safetensors"; }
};

json to_json(const Best& best) {
    if (best.step < 0) return nullptr;
    return {{"step", best.step}, {"val_loss", best.val_loss}, {"evaluations_since", best.evaluations_since}};
}

json remembered(const TrainingState& state, const json& config) {
    return {{"samples", state.samples},
            {"tokens", state.tokens},
            {"updates", state.updates},
            {"seed", config.at("seed")},
            {"optimizer", config.at("optimizer")},
            {"outlier", {{"loss", state.loss_window}, {"grad_norm", state.grad_norm_window}}},
            {"data", {{"train", state.train_data}, {"val", state.val_data}}},
            {"evaluated_at", state.evaluated_at},
            {"best", to_json(state.best)}};
}

Files files_of(const fs::path& folder, GPT2& model, const Optimizer& optimizer, const TrainingState& state,
               const CheckpointMetadata& metadata) {
    Files files{folder, factors_outside(metadata.parametrization, model.shape.head_dim()), {}, {}, {}, {}};
    for (Parameter& p : model.parameters.all())
        files.model.push_back(entry_of(p.spec.name, p.spec, p.value.dtype, p.value));
    for (const Optimizer::State& s : optimizer.state())
        files.optimizer.push_back(entry_of(s.name, s.parameter->spec, DType::f32, s.value));
    const std::string step = std::to_string(state.step);
    files.model_metadata = {{"format", kFormat},
                            {"writer", kWriter},
                            {"plain_gpt2", files.outside.empty() ? "yes" : "no: " + files.outside},
                            {"step", step},
                            {"config", metadata.config.dump()},
                            {"model", metadata.model.dump()},
                            {"parametrization", metadata.parametrization.dump()},
                            {"tokenizer", metadata.tokenizer},
                            {"provenance", metadata.provenance.dump()}};
    files.optimizer_metadata = {
        {"format", kFormat}, {"writer", kWriter}, {"step", step}, {"state", remembered(state, metadata.config).dump()}};
    return files;
}

// The folder, and the files beside the two with tensors: config.json for a plain GPT-2, tokenizer.bin.
void begin(const Files& files, const GPT2& model, const CheckpointMetadata& metadata) {
    fs::create_directories(files.folder.parent_path());
    fs::remove_all(files.folder);
    fs::create_directory(files.folder);
    if (files.outside.empty())
        write_text(files.folder / "config.json",
                   config_json(model.shape, model.parameters.dtype(), metadata.tokenizer));
    if (!metadata.tokenizer_path.empty())
        Tokenizer::load(metadata.tokenizer_path).save((files.folder / "tokenizer.bin").string());
}

void end(const Files& files, const fs::path& final) {
    sync_folder(files.folder);
    commit(files.folder, final);
    sync_folder(final.parent_path());
}

// The entries that each rank writes: the largest first, each to the rank that has the fewest bytes to write.
std::vector<std::vector<size_t>> divide(const std::vector<SafetensorsEntry>& entries, int ranks) {
    const auto size = [&](size_t i) {
        int64_t n = 1;
        for (int64_t d : entries[i].shape) n *= d;
        return n;
    };
    std::vector<size_t> order(entries.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return size(a) > size(b); });
    std::vector<std::vector<size_t>> lists(static_cast<size_t>(ranks));
    std::vector<int64_t> written(static_cast<size_t>(ranks));
    for (size_t i : order) {
        const size_t least = size_t(std::min_element(written.begin(), written.end()) - written.begin());
        lists[least].push_back(i);
        written[least] += size(i);
    }
    return lists;
}

// A tensor that is on the host.
SafetensorsEntry entry_of_host(const std::string& name, const TensorSpec& spec, std::vector<float> values) {
    if (stored_transposed(spec)) values = transposed(values, spec.shape[0], spec.shape[1]);
    return {name, DType::f32, stored_shape(spec), spec.count(),
            [values = std::move(values)](int64_t, int64_t) { return values; }};
}

// Runs `work`; what it throws is a text.
template <class Work>
std::string problem_of(Work&& work) {
    try {
        work();
    } catch (const fs::filesystem_error& error) {
        return str(error.path1().string(), ": ", error.code().message());
    } catch (const std::exception& error) {
        return error.what();
    }
    return "";
}

// What this rank writes. All ranks collect the same tensors in the same order, also after a problem: as many at a time as
// there are ranks, so that all write at the same time.
std::string write_own_part(Files& files, const Optimizer& optimizer, DataParallel& ranks) {
    const size_t self = size_t(ranks.rank());
    std::unique_ptr<SafetensorsWriter> writer;
    std::string problem = problem_of([&] {
        SafetensorsWriter model(files.model_path(), files.model);
        const std::vector<std::vector<size_t>> lists = divide(files.model, ranks.size());
        for (size_t i : lists[self]) model.write(i);
        model.finish();
        writer = std::make_unique<SafetensorsWriter>(files.optimizer_path(), files.optimizer);
    });
    const std::vector<std::vector<size_t>> lists = divide(files.optimizer, ranks.size());
    for (size_t round = 0; round < files.optimizer.size(); ++round) {
        for (size_t r = 0; r < lists.size(); ++r) {
            if (round >= lists[r].size()) continue;
            const Optimizer::State& state = optimizer.state()[lists[r][round]];
            std::vector<float> values = ranks.collect(state, int(r));
            if (r == self)
                files.optimizer[lists[r][round]] = entry_of_host(state.name, state.parameter->spec, std::move(values));
        }
        if (!problem.empty() || round >= lists[self].size()) continue;
        SafetensorsEntry& own = files.optimizer[lists[self][round]];
        problem = problem_of([&] { writer->write(lists[self][round]); });
        own.values = nullptr;  // its memory
    }
    if (problem.empty()) problem = problem_of([&] { writer->finish(); });
    return problem;
}

void write_together(Files& files, const fs::path& final, GPT2& model, const Optimizer& optimizer,
                    const CheckpointMetadata& metadata, DataParallel& ranks) {
    const bool first = ranks.rank() == 0;
    const auto by_first = [&](auto&& work) { ranks.check_all(first ? problem_of(work) : ""); };
    try {
        by_first([&] {
            begin(files, model, metadata);
            SafetensorsWriter::create(files.model_path(), files.model, files.model_metadata);
            SafetensorsWriter::create(files.optimizer_path(), files.optimizer, files.optimizer_metadata);
        });
        ranks.check_all(write_own_part(files, optimizer, ranks));
        by_first([&] { end(files, final); });
    } catch (const Error&) {
        std::error_code ignored;
        if (first) fs::remove_all(files.folder, ignored);
        throw;
    }
}

}  // namespace

nlohmann::ordered_json to_json(const ModelShape& s) {
    return {{"num_layers", s.depth},        {"num_heads", s.heads},       {"channels", s.width},
            {"max_seq_len", s.max_seq_len}, {"vocab_size", s.vocab_size}, {"tie_embeddings", s.tie_embeddings}};
}

std::string save_checkpoint(const std::string& out, GPT2& model, const Optimizer& optimizer, const TrainingState& state,
                            const CheckpointMetadata& metadata, DataParallel* ranks) {
    const std::string name = checkpoint_name(state.step);
    const fs::path folder = fs::path(out) / "checkpoints", final = folder / name, temporary = folder / (".tmp-" + name);
    Files files = files_of(temporary, model, optimizer, state, metadata);
    if (ranks) {
        write_together(files, final, model, optimizer, metadata, *ranks);
        return final.string();
    }
    try {
        begin(files, model, metadata);
        write_safetensors(files.model_path(), files.model, files.model_metadata);
        write_safetensors(files.optimizer_path(), files.optimizer, files.optimizer_metadata);
        end(files, final);
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
        const std::vector<float> values = from_stored(spec, file.read(s.name, stored_shape(spec)));
        const int64_t begin = std::min(s.first, spec.count()),  // padding rows are not in the file
            end = std::min(s.first + s.value.numel(), spec.count());
        if (begin < end) upload(s.value, {values.begin() + begin, values.begin() + end});
    }
    return state;
}

}  // namespace llmc
