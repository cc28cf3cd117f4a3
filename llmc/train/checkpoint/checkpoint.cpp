#include "llmc/train/checkpoint/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "llmc/core/error.h"
#include "llmc/train/checkpoint/safetensors.h"

namespace llmc {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kFormat = "llmc-mup 1";

// Hugging Face's Conv1D keeps the matrices of a block as (in, out); this program, like torch.nn.Linear, as (out, in).
bool stored_transposed(const TensorSpec& spec) { return spec.role == Role::hidden; }

std::vector<int64_t> stored_shape(const TensorSpec& spec) {
    return stored_transposed(spec) ? std::vector<int64_t>{spec.shape[1], spec.shape[0]} : spec.shape;
}

// (rows, cols) -> (cols, rows)
std::vector<float> transposed(const std::vector<float>& values, int64_t rows, int64_t cols) {
    std::vector<float> out(values.size());
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; ++j) out[j * rows + i] = values[i * cols + j];
    return out;
}

// A tensor as stored in the file. Transposed tensors are converted as a whole, others a few megabytes at a time.
SafetensorsEntry entry_of(const std::string& name, const TensorSpec& spec, DType dtype, Tensor tensor) {
    if (stored_transposed(spec))
        return {name, dtype, stored_shape(spec), spec.count(), [=, &spec](int64_t, int64_t count) {
                    return transposed(download(tensor, count), spec.shape[0], spec.shape[1]);
                }};
    return {name, dtype, spec.shape, int64_t{1} << 20,
            [=](int64_t begin, int64_t count) { return download(tensor.slice(begin, count), count); }};
}
std::vector<float> from_stored(const TensorSpec& spec, std::vector<float> values) {
    if (stored_transposed(spec)) return transposed(values, spec.shape[1], spec.shape[0]);
    return values;
}

json parse_metadata(const SafetensorsFile& file, const std::string& key) {
    json value = json::parse(file.metadata(key), nullptr, false);
    if (value.is_discarded()) fail_data(file.path, " is damaged: its metadata '", key, "' is not JSON");
    return value;
}

int64_t step_of(const SafetensorsFile& file) {
    const std::string& text = file.metadata("step");
    if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos)
        fail_data(file.path, " is damaged: its step is '", text, "'");
    return std::stoll(text);
}

class SafetensorsModel : public ModelFile {
public:
    explicit SafetensorsModel(const std::string& p) : file_(p) {
        path = p;
        if (file_.metadata().contains("model"))
            read_own_metadata();
        else
            infer_shape();
        const fs::path beside = fs::path(p).parent_path() / "tokenizer.bin";
        if (fs::exists(beside)) tokenizer_path = beside.string();
    }
    std::vector<float> values(const TensorSpec& spec) const override {
        return from_stored(spec, file_.read(prefix_ + spec.name, stored_shape(spec)));
    }

private:
    void read_own_metadata() {
        const json model = parse_metadata(file_, "model");
        try {
            shape = {model.at("num_layers"),  model.at("num_heads"),  model.at("channels"),
                     model.at("max_seq_len"), model.at("vocab_size"), model.at("tie_embeddings")};
        } catch (const json::exception& error) {
            fail_data(path, " is damaged: its metadata 'model' is incomplete (", error.what(), ")");
        }
        parametrization = parse_metadata(file_, "parametrization");
        config = parse_metadata(file_, "config");
        tokenizer = file_.metadata("tokenizer");
        step = step_of(file_);
    }
    // The tensors of Hugging Face's GPT2LMHeadModel give the shape, except for the number of heads.
    void infer_shape() {
        for (const char* prefix : {"", "transformer."})
            if (file_.has(prefix + std::string("wte.weight"))) prefix_ = prefix;
        auto dims = [&](const std::string& name) {
            auto found = file_.entries().find(prefix_ + name);
            if (found == file_.entries().end() || found->second.shape.size() != 2)
                fail_data(path, " has no matrix '", name, "': it is not a GPT-2 checkpoint");
            return found->second.shape;
        };
        auto wte = dims("wte.weight"), wpe = dims("wpe.weight");
        int depth = 0;
        while (file_.has(str(prefix_, "h.", depth, ".ln_1.weight"))) ++depth;
        heads_known = false;
        shape = {depth,       std::max(1, int(wte[1]) / 64), int(wte[1]), int(wpe[0]),
                 int(wte[0]), !file_.has("lm_head.weight")};
    }
    SafetensorsFile file_;
    std::string prefix_;
};

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

std::vector<fs::path> checkpoints_of(const fs::path& folder) {  // complete ones, oldest first
    std::vector<fs::path> found;
    if (fs::is_directory(folder))
        for (auto& entry : fs::directory_iterator(folder))
            if (entry.path().filename().string().starts_with("step_")) found.push_back(entry.path());
    std::sort(found.begin(), found.end());
    return found;
}

void write_model(const fs::path& path, GPT2& model, const TrainingState& state, const CheckpointMetadata& metadata) {
    std::vector<SafetensorsEntry> entries;
    for (Parameter& p : model.parameters.all())
        entries.push_back(entry_of(p.spec.name, p.spec, p.value.dtype, p.value));
    write_safetensors(path, entries,
                      {{"format", kFormat},
                       {"step", std::to_string(state.step)},
                       {"config", metadata.config.dump()},
                       {"model", metadata.model.dump()},
                       {"parametrization", metadata.parametrization.dump()},
                       {"tokenizer", metadata.tokenizer},
                       {"provenance", metadata.provenance.dump()}});
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
                             {"outlier", {{"loss", state.loss_window}, {"grad_norm", state.grad_norm_window}}}};
    write_safetensors(path, entries,
                      {{"format", kFormat}, {"step", std::to_string(state.step)}, {"state", remembered.dump()}});
}

}  // namespace

nlohmann::ordered_json to_json(const ModelShape& s) {
    return {{"num_layers", s.depth},        {"num_heads", s.heads},       {"channels", s.width},
            {"max_seq_len", s.max_seq_len}, {"vocab_size", s.vocab_size}, {"tie_embeddings", s.tie_embeddings}};
}

std::unique_ptr<ModelFile> ModelFile::open(const std::string& given) {
    fs::path path = given;
    if (fs::is_directory(path)) {
        if (!fs::exists(path / "model.safetensors"))  // the folder of a run
            if (const std::optional<std::string> newest = newest_checkpoint(given)) path = *newest;
        if (!fs::exists(path / "model.safetensors"))
            fail_data("the folder ", given,
                      " holds no model.safetensors: name a checkpoint, such as OUT/checkpoints/step_00000100");
        path /= "model.safetensors";
    }
    if (!fs::exists(path)) fail_data("there is no checkpoint at ", given);
    if (path.extension() == ".bin") return open_llmc_model(path.string());
    return std::make_unique<SafetensorsModel>(path.string());
}

// The forward factors of residual branches; the others may change with the batch size.
static json forward_factors(const json& residual) {
    json out = json::array();
    for (const json& factors : residual) out.push_back({factors.at(0), factors.at(1)});
    return out;
}

void load_weights(const ModelFile& file, GPT2& model) {
    if (file.shape != model.shape)
        fail_data(file.path, " is a model of another shape: ", to_json(file.shape).dump(), ", wanted ",
                  to_json(model.shape).dump());
    const json wanted = model.rules.to_json({});
    if (!file.parametrization.is_null()) {
        const auto must_agree = [&](const std::string& key, const json& trained, const json& now) {
            if (trained != now)
                fail_data(file.path, " was trained under another parametrization: its ", key, " is ", trained.dump(),
                          ", this run's is ", now.dump(), "; give the options it was trained with");
        };
        for (const char* key : {"scheme", "width_mult"})
            must_agree(key, file.parametrization.value(key, json()), wanted.at(key));
        const json scales = file.parametrization.value("scales", json::object());
        for (const char* key : {"embedding", "attention", "attention_out", "gelu", "loss", "output"})
            must_agree(str("scale ", key), scales.value(key, json()), wanted.at("scales").at(key));
        must_agree("scale residual", forward_factors(scales.value("residual", json::array())),
                   forward_factors(wanted.at("scales").at("residual")));
    } else if (forward_factors(wanted.at("scales").at("residual")) !=
                   json(2 * size_t(model.shape.depth), {1.0f, 1.0f}) ||
               wanted.at("scales").at("output") != 1.0f || wanted.at("scales").at("embedding") != 1.0f ||
               wanted.at("scales").at("attention") !=
                   float(std::sqrt(double(model.shape.head_dim())) / model.shape.head_dim())) {
        fail_data(file.path, " is a standard GPT-2: with scales ", wanted.at("scales").dump(),
                  " it would compute another function; use --parametrization sp and no multipliers");
    }
    for (Parameter& p : model.parameters.all()) Parameters::set(p, file.values(p.spec));
}

std::string save_checkpoint(const std::string& out, int keep, GPT2& model, const Optimizer& optimizer,
                            const TrainingState& state, const CheckpointMetadata& metadata) {
    char name[32];
    std::snprintf(name, sizeof name, "step_%08lld", static_cast<long long>(state.step));
    const fs::path folder = fs::path(out) / "checkpoints", final = folder / name,
                   temporary = folder / (std::string(".tmp-") + name);
    try {
        fs::create_directories(folder);
        fs::remove_all(temporary);
        fs::create_directory(temporary);
        write_model(temporary / "model.safetensors", model, state, metadata);
        write_optimizer(temporary / "optimizer.safetensors", optimizer, state, metadata.config);
        if (!metadata.tokenizer_path.empty()) fs::copy_file(metadata.tokenizer_path, temporary / "tokenizer.bin");
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
    std::vector<fs::path> all = checkpoints_of(folder);
    for (size_t i = 0; i + size_t(keep) < all.size(); ++i) fs::remove_all(all[i]);
    return final.string();
}

TrainingState load_training_state(const std::string& folder, Optimizer& optimizer) {
    const SafetensorsFile file((fs::path(folder) / "optimizer.safetensors").string());
    const json remembered = parse_metadata(file, "state");
    TrainingState state;
    try {
        state.step = step_of(file);
        state.samples = remembered.at("samples");
        state.tokens = remembered.at("tokens");
        state.updates = remembered.at("updates");
        state.loss_window = remembered.at("outlier").at("loss").get<std::vector<double>>();
        state.grad_norm_window = remembered.at("outlier").at("grad_norm").get<std::vector<double>>();
    } catch (const std::exception& error) {
        fail_data(file.path, " is damaged: its metadata 'state' is incomplete (", error.what(), ")");
    }
    for (const Optimizer::State& s : optimizer.state()) {
        const TensorSpec& spec = s.parameter->spec;
        upload(s.value, from_stored(spec, file.read(s.name, stored_shape(spec))));
    }
    return state;
}

std::optional<std::string> newest_checkpoint(const std::string& out) {
    std::vector<fs::path> all = checkpoints_of(fs::path(out) / "checkpoints");
    if (all.empty()) return std::nullopt;
    return all.back().string();
}

}  // namespace llmc
