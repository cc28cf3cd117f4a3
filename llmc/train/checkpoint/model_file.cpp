// Reading a model: which kind of file it is, and whether it fits a run's parametrization.
#include <cmath>
#include <filesystem>

#include "llmc/core/error.h"
#include "llmc/data/tokenizer.h"
#include "llmc/train/checkpoint/checkpoint.h"
#include "llmc/train/checkpoint/layout.h"
#include "llmc/train/checkpoint/other_formats.h"
#include "llmc/train/checkpoint/own_metadata.h"
#include "llmc/train/checkpoint/run_folder.h"
#include "llmc/train/checkpoint/weight_files.h"

namespace llmc {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char *kModel = "model.safetensors", *kIndex = "model.safetensors.index.json";

// A file that this program wrote.
class OwnModel : public ModelFile {
public:
    explicit OwnModel(std::shared_ptr<const WeightFiles> files) : files_(std::move(files)) {
        const SafetensorsFile& file = files_->first();
        path = file.path;
        if (file.metadata().contains("state"))
            fail_data(path, " holds the state of an optimizer: name model.safetensors, or the folder of both");
        const json model = parse_metadata(file, "model");
        try {
            shape = {model.at("num_layers"),  model.at("num_heads"),  model.at("channels"),
                     model.at("max_seq_len"), model.at("vocab_size"), model.at("tie_embeddings")};
        } catch (const json::exception& error) {
            fail_data(path, " is damaged: its metadata 'model' is incomplete (", error.what(), ")");
        }
        parametrization = parse_metadata(file, "parametrization");
        config = parse_metadata(file, "config");
        tokenizer = file.metadata("tokenizer");
        step = step_of(file);
    }
    void check(const TensorSpec& spec) const override { files_->check(spec.name, stored_shape(spec)); }
    std::vector<float> values(const TensorSpec& spec) const override {
        return from_stored(spec, files_->read(spec.name, stored_shape(spec)));
    }

private:
    std::shared_ptr<const WeightFiles> files_;
};

fs::path file_of(const std::string& given) {
    fs::path path = given;
    if (!fs::exists(path)) fail_data("there is no checkpoint at ", given);
    if (!fs::is_directory(path) && !fs::is_regular_file(path))  // opening a pipe would wait for a writer
        fail_data(given, " is no checkpoint: it is neither a file nor a folder");
    if (!fs::is_directory(path)) return path;
    const auto in = [](const fs::path& folder) {
        for (const char* name : {kModel, kIndex})
            if (fs::is_regular_file(folder / name)) return folder / name;
        return fs::path();
    };
    fs::path found = in(path);
    if (found.empty()) {  // the folder of a run, or that of its checkpoints
        fs::path run = fs::path(given).lexically_normal();
        if (!run.has_filename()) run = run.parent_path();
        if (run.filename() == "checkpoints") run = run.parent_path();
        if (const std::optional<std::string> newest = newest_checkpoint(run.empty() ? "." : run.string()))
            found = in(*newest);
    }
    if (found.empty()) fail_data("the folder ", given, " holds no model.safetensors", what_is_in(given));
    return found;
}

// Reports the first number in which a model of the file and a model of this run differ.
class Comparison {
public:
    explicit Comparison(const ModelFile& file) : file_(file) {}
    void same(const std::string& key, const json& trained, const json& now) const {
        if (trained == now) return;
        if (trained.is_array() && now.is_array() && trained.size() == now.size())
            for (size_t i = 0; i < now.size(); ++i) same(key, trained[i], now[i]);
        if (file_.parametrization.is_null())
            fail_data(file_.path, " is a standard GPT-2, whose ", key, " is ", trained.dump(), ", this run's is ",
                      now.dump(), ": use --parametrization sp and no multipliers");
        fail_data(file_.path, " was trained under another parametrization: its ", key, " is ", trained.dump(),
                  ", this run's is ", now.dump(), "; ", "leave the options of the parametrization out to take the ",
                  "checkpoint's");
    }

private:
    const ModelFile& file_;
};

// The scales of a standard GPT-2.
json standard_scales(const ModelFile& file, int head_dim, const json& like) {
    json out = like;
    for (auto& [key, value] : out.items()) value = 1.0f;
    out["attention"] = file.scaled_attention ? float(std::sqrt(double(head_dim)) / head_dim) : 1.0f;
    out["residual"] = json(2 * size_t(file.shape.depth), json::array({1.0f, 1.0f}));
    return out;
}

// The shape of the file with what it leaves open taken from `wanted`.
ModelShape completed(const ModelFile& file, const ModelShape& wanted) {
    ModelShape shape = file.shape;
    if (!file.heads_known) shape.heads = wanted.heads;
    if (file.head_optional) shape.tie_embeddings = wanted.tie_embeddings;
    return shape;
}

// Data error that names, as the options do, what differs.
void check_shape(const std::string& path, const ModelShape& theirs, const ModelShape& ours) {
    std::string out;
    const auto compare = [&](const char* name, const json& has, const json& wanted) {
        if (has != wanted)
            out += str(out.empty() ? "" : ", ", "its ", name, " is ", has.dump(), ", this model's ", wanted.dump());
    };
    compare("depth", theirs.depth, ours.depth);
    compare("width", theirs.width, ours.width);
    compare("heads", theirs.heads, ours.heads);
    compare("seq_len", theirs.max_seq_len, ours.max_seq_len);
    compare("vocab_size", theirs.vocab_size, ours.vocab_size);
    compare("tie_embeddings", theirs.tie_embeddings, ours.tie_embeddings);
    if (!out.empty()) fail_data(path, " is a model of another shape: ", out);
}

// Data error if the weights would make another function under the model's rules.
void check_rules(const ModelFile& file, const GPT2& model) {
    const Parametrization& rules = model.rules;
    const Comparison must_be(file);
    const json wanted = rules.to_json({});
    const bool standard = file.parametrization.is_null();
    if (!standard)
        for (const char* key : {"scheme", "width_mult"})
            must_be.same(key, file.parametrization.value(key, json()), wanted.at(key));
    const json& now = wanted.at("scales");
    const json scales = standard ? standard_scales(file, model.shape.head_dim(), now)
                                 : file.parametrization.value("scales", json::object());
    for (const char* key : {"embedding", "attention", "attention_out", "gelu", "loss", "output"})
        must_be.same(str("scale ", key), scales.value(key, json()), now.at(key));
    // The forward factors of a branch; those of the backward pass may change with the batch size.
    const json theirs = scales.value("residual", json::array()), &ours = now.at("residual");
    must_be.same("number of residual branches", theirs.size(), ours.size());
    for (size_t i = 0; i < ours.size(); ++i)
        for (const size_t factor : {0, 1})
            must_be.same(str(i % 2 ? "mlp" : "attention", " branch of block ", i / 2), theirs.at(i).at(factor),
                         ours.at(i).at(factor));
}

// That of GPT-2 by the number of tokens; for weights of other projects, that of the vocabulary beside them.
std::string likely_tokenizer(const ModelFile& model) {
    if (model.shape.vocab_size == kGpt2VocabSize) return "gpt2";
    const bool own = !model.parametrization.is_null();
    const std::string kind = own ? "unknown" : Tokenizer::kind_of(model.tokenizer_path);
    const int tokens = kind == "gpt2" ? kGpt2VocabSize : kByteVocabSize;
    return model.shape.vocab_size >= tokens ? kind : "unknown";
}

}  // namespace

// The newest intact checkpoint of the run that a path belongs to: its folder, or a checkpoint, for those that are older.
static std::optional<std::string> intact_beside(const std::string& given) {
    if (!fs::exists(given)) return std::nullopt;
    fs::path folder = fs::path(given).lexically_normal();
    if (!folder.has_filename()) folder = folder.parent_path();  // "step_00000010/"
    if (!fs::is_directory(folder)) folder = folder.parent_path();
    if (fs::exists(folder / "checkpoints"))
        return newest_intact_checkpoint(folder.string(), {.with_values = true}).folder;
    const std::string step = fs::canonical(folder).filename().string();  // of the link checkpoints/best, too
    return newest_intact_checkpoint(folder.parent_path().parent_path().string(), {.before = step, .with_values = true})
        .folder;
}

void naming_intact(const std::string& path, const std::function<void()>& read) {
    try {
        read();
    } catch (const DamageError& error) {
        const auto intact = intact_beside(path);
        if (!intact) throw;
        fail_damaged(error.what(), "; the checkpoint ", *intact, " is intact");
    }
}

std::unique_ptr<ModelFile> ModelFile::open(const std::string& given) {
    std::unique_ptr<ModelFile> file;
    naming_intact(given, [&] {
        try {
            file = open_file(given);
        } catch (const Error& error) {
            if (error.exit_code != kExitData) throw;
            throw DamageError(error.what());
        }
    });
    return file;
}

std::unique_ptr<ModelFile> ModelFile::open_file(const std::string& given) {
    const fs::path path = file_of(given);
    std::unique_ptr<ModelFile> model;
    if (path.extension() == ".bin" && what_file_is(path.string()).empty()) {
        model = open_llmc_model(path.string());
        model->bytes = int64_t(fs::file_size(path));
    } else {
        const auto files = std::make_shared<const WeightFiles>(path.string());
        if (is_own(files->first()))
            model = std::make_unique<OwnModel>(files);
        else
            model = open_foreign_model(files, path.parent_path().string());
        model->bytes = files->bytes();
    }
    model->tokenizer_path = Tokenizer::find(path.parent_path().string());
    if (model->tokenizer == "unknown") model->tokenizer = likely_tokenizer(*model);
    return model;
}

void load_weights(const ModelFile& file, GPT2& model) {
    check_shape(file.path, completed(file, model.shape), model.shape);
    check_rules(file, model);
    for (Parameter& p : model.parameters.all()) Parameters::set(p, file.values(p.spec));
}

}  // namespace llmc
