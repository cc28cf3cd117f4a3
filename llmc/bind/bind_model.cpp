// GPT2 and the parametrization's rule table, for Python.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "llmc/bind/arrays.h"
#include "llmc/bind/bind.h"
#include "llmc/bind/keywords.h"
#include "llmc/bind/model_tokenizer.h"
#include "llmc/bind/sample_request.h"
#include "llmc/bind/scoring.h"
#include "llmc/bind/turn.h"
#include "llmc/core/error.h"
#include "llmc/gpt2/arena.h"
#include "llmc/train/checkpoint/checkpoint.h"
#include "llmc/train/checkpoint/run_folder.h"
#include "llmc/train/provenance.h"

namespace py = pybind11;
namespace fs = std::filesystem;

namespace llmc {
namespace {

using python::Floats;
using python::model_parts;
using python::ModelParts;
using python::ModelTokenizer;
using python::SampleRequest;
using python::to_python;
using python::TokenRows;
using python::Turn;
using Tokens = python::TokenIds<"tokens">;
using Targets = python::TokenIds<"targets">;

// Values on the host and their shape, made without Python objects.
struct Values {
    std::vector<float> values;
    std::vector<int64_t> shape;
    Floats array() const {
        Floats out(shape);
        std::copy(values.begin(), values.end(), out.mutable_data());
        return out;
    }
};
using NamedValues = std::vector<std::pair<std::string, Values>>;

py::dict arrays(NamedValues named) {
    py::dict out;
    for (auto& [name, values] : named) {
        out[py::str(name)] = values.array();
        values = {};  // so that not everything is in memory twice
    }
    return out;
}

// A batch on the host: copies, so that other threads cannot change what was checked.
struct HostBatch {
    int B = 0, T = 0;
    std::vector<int32_t> tokens, targets;  // targets: empty without
};

std::string shape_text(const py::array& array) { return py::str(array.attr("shape")); }

class PythonGPT2 {
public:
    PythonGPT2(const ModelParts& parts, int64_t logits_rows, const std::string& tokenizer)
        : config_(parts.config),
          model_(parts.shape, make_rules(parts.config, parts.shape), options_of(parts.config, logits_rows)),
          optimizer_(model_, config_.optimizer, config_.rounding, uint64_t(config_.machine.seed)) {
        if (parts.weights) {
            naming_intact(parts.weights->path, [&] { load_weights(*parts.weights, model_); });
            tokenizer_.take(*parts.weights);
        } else {
            model_.parameters.initialise(uint64_t(config_.machine.seed));
        }
        if (!tokenizer.empty()) tokenizer_.take(tokenizer_.named(tokenizer));
        optimizer_.masters_from_parameters();
    }

    py::object forward(const Tokens& tokens, const std::optional<Targets>& targets) {
        const HostBatch batch = host_batch(tokens, targets);
        float loss = 0;
        Values logits;
        {
            const Turn turn;
            set_batch(batch);
            if (targets) {
                loss = model_.mean_loss();
            } else {
                model_.forward();
                logits = {model_.logits(0, int64_t{batch.B} * batch.T), {batch.B, batch.T, model_.shape.vocab_size}};
            }
        }
        if (targets) return py::float_(loss);
        return logits.array();
    }
    double backward(int64_t total_tokens) {
        const Turn turn;
        if (!has_targets_) fail_usage("backward() needs a forward() with targets before it");
        if (total_tokens < 0)
            fail_usage("total_tokens is ", total_tokens, ": give at least 1, or 0 for the number of targets");
        model_.zero_loss();
        model_.loss_and_head_backward(float(1.0 / double(total_tokens > 0 ? total_tokens : model_.target_count())));
        model_.backward();
        has_targets_ = false;  // the backward pass has overwritten what another backward() would need
        has_gradients_ = true;
        state_.samples += model_.batch_size();
        state_.tokens += int64_t{model_.batch_size()} * model_.seq_len();
        return model_.loss();
    }
    double step(double schedule) {
        const Turn turn;
        if (!(schedule >= 0) || !std::isfinite(schedule))
            fail_usage("schedule is ", schedule, ": give a finite factor of the learning rates, at least 0");
        if (!has_gradients_) fail_usage("step() needs a backward() before it: there are no gradients");
        has_targets_ = false;  // the activations are those of the weights before the step
        optimizer_.compute_grad_norm();
        state_.step = ++state_.updates;
        optimizer_.step(schedule, state_.updates);
        return optimizer_.grad_norm();
    }
    py::dict parameters() {
        return arrays(collect([&](NamedValues& out) {
            for (Parameter& p : model_.parameters.all())
                out.push_back({p.spec.name, {Parameters::get(p), p.spec.shape}});
        }));
    }
    py::dict gradients() {
        return arrays(collect([&](NamedValues& out) {
            for (Parameter& p : model_.parameters.all())
                out.push_back({p.spec.name, {download(p.grad, p.spec.count()), p.spec.shape}});
        }));
    }
    py::dict state() {
        return arrays(collect([&](NamedValues& out) {
            for (const Optimizer::State& s : optimizer_.state()) {
                const TensorSpec& spec = s.parameter->spec;
                out.push_back({s.name, {download(s.value, spec.count()), spec.shape}});
            }
        }));
    }
    void set_parameter(const std::string& name, const Floats& values) {
        Parameter& p = model_.parameters.find(name);
        if (std::vector<int64_t>(values.shape(), values.shape() + values.ndim()) != p.spec.shape)
            fail_usage(name, " does not have the shape of the array given");
        const std::vector<float> copy(values.data(), values.data() + values.size());
        const Turn turn;
        has_targets_ = false;
        Parameters::set(p, copy);
        optimizer_.masters_from_parameters();
    }
    // Every activation of one forward pass by name, (rows, channels). "logits" arrives in chunks.
    py::dict activations(const Tokens& tokens, const Targets& targets) {
        const HostBatch batch = host_batch(tokens, targets);
        return arrays(collect([&](NamedValues& out) {
            std::map<std::string, Values> seen;
            set_batch(batch);
            model_.observer = [&](const std::string& name, Tensor value) {
                const std::vector<float> values = download(value, value.numel());
                std::vector<float>& all = seen[name].values;
                all.insert(all.end(), values.begin(), values.end());
                seen[name].shape = {int64_t(all.size()) / value.last(), value.last()};
            };
            try {
                model_.mean_loss();
            } catch (...) {
                model_.observer = nullptr;  // it refers to `seen`
                throw;
            }
            model_.observer = nullptr;
            out.assign(seen.begin(), seen.end());
        }));
    }
    std::vector<std::vector<int32_t>> continue_tokens(const Tokens& given, const SampleRequest& request) {
        if (given.ndim() != 1) fail_usage("tokens have the shape ", shape_text(given), ": give a list");
        const std::vector<int32_t> tokens(given.data(), given.data() + given.size());
        if (tokens.empty()) fail_usage("there is no token to continue from: give at least one");
        for (const int32_t token : tokens) check_token(token);
        const Turn turn;
        std::vector<std::vector<int32_t>> out;
        const Tokenizer* tokenizer = request.options.stop.empty() ? nullptr : &tokenizer_.open();
        for (Continuation& found : continuations(tokenizer, tokens, -1, request))
            out.push_back(std::move(found.tokens));
        return out;
    }
    std::vector<py::bytes> continue_text(const std::string& prompt, const SampleRequest& request) {
        std::vector<Continuation> found;
        {
            const Turn turn;
            const Tokenizer& tokenizer = tokenizer_.open();
            const std::vector<int32_t> tokens = document_start(tokenizer, prompt, model_.shape.vocab_size);
            found = continuations(&tokenizer, tokens, tokenizer.end_of_document(), request);
        }
        std::vector<py::bytes> out;
        for (const Continuation& c : found) out.emplace_back(c.text);
        return out;
    }
    // The tokens of a text, after that of the end of a document.
    std::vector<int32_t> encode(const std::string& text) {
        const Turn turn;
        return document_start(tokenizer_.open(), text, model_.shape.vocab_size);
    }
    Floats logits(const Tokens& tokens) {
        const TokenRows rows = token_rows(tokens);
        if (rows.length > config_.model.seq_len)
            fail_usage("tokens have the length ", rows.length, ", the model's seq_len is ", config_.model.seq_len,
                       ": give parts of them");
        std::vector<int64_t> shape(tokens.shape(), tokens.shape() + tokens.ndim());
        shape.push_back(model_.shape.vocab_size);
        Floats out(shape);
        float* values = out.mutable_data();
        {
            const Turn turn;
            has_targets_ = false;
            python::logits(model_, rows, config_.run.batch_size, values);
        }
        return out;
    }
    double loss(const Tokens& tokens) {
        const TokenRows rows = token_rows(tokens);
        if (rows.length < 2)
            fail_usage("there is no token to predict: give at least 2 token ids, or a text that is not empty");
        const Turn turn;
        has_targets_ = false;
        return python::mean_loss(model_, rows, config_.run.batch_size, config_.model.seq_len);
    }
    void load(const std::string& path, bool resume) {
        const Turn turn;
        const auto file = ModelFile::open(path);
        naming_intact(file->path, [&] {
            if (resume) check_resumable(*file);
            has_targets_ = false;
            load_weights(*file, model_);
            if (tokenizer_.unknown()) tokenizer_.take(*file);
            optimizer_.masters_from_parameters();
            if (resume) state_ = load_training_state(fs::path(file->path).parent_path().string(), optimizer_);
        });
    }
    std::string save(const std::string& folder, const std::string& tokenizer) {
        if (folder.empty()) fail_usage("folder is empty: name the folder of a run");
        const Turn turn;
        const auto [kind, path] = tokenizer_.named(tokenizer);
        RunLock lock;
        lock.take_existing(folder);  // of a run that is going on
        const auto newest = newest_intact_checkpoint(folder).folder;
        if (newest && ModelFile::open(*newest)->step > state_.step)
            fail_usage(folder, " holds the later checkpoint ", *newest, ", this model is at step ", state_.step,
                       ": choose another folder");
        const auto rules = model_.rules.to_json(tensor_specs(model_.shape));
        auto origin = provenance("llmc.GPT2", "");
        origin.erase("started");  // it is not known when the training began
        return save_checkpoint(folder, model_, optimizer_, state_,
                               {to_json(config_), to_json(model_.shape), rules, origin, kind, path});
    }
    void zero_grad() {
        const Turn turn;
        model_.parameters.zero_grad();
        has_gradients_ = false;
    }
    int64_t steps() const { return state_.updates; }
    py::object config() const { return to_python(to_json(config_)); }
    py::object rules() const { return to_python(model_.rules.to_json(tensor_specs(model_.shape))); }

private:
    static GPT2Options options_of(const Config& config, int64_t logits_rows) {
        GPT2Options options = gpt2_options(config);
        if (logits_rows < 0)
            fail_usage("logits_rows is ", logits_rows, ": give at least 1, or 0 for a number that suits the device");
        options.logits_rows = logits_rows;
        return options;
    }
    // Called in turn.
    std::vector<Continuation> continuations(const Tokenizer* tokenizer, const std::vector<int32_t>& tokens, int32_t end,
                                            const SampleRequest& request) {
        has_targets_ = false;  // sampling overwrites the batch and its activations
        std::vector<Continuation> out;
        SampleOptions options = request.options;
        for (; options.number < uint32_t(request.samples); ++options.number)
            out.push_back(llmc::generate(model_, tokenizer, tokens, config_.model.seq_len, end, options));
        return out;
    }
    TokenRows token_rows(const Tokens& tokens) const {
        if (tokens.ndim() < 1 || tokens.ndim() > 2 || tokens.size() == 0)
            fail_usage("tokens have the shape ", shape_text(tokens), ": give (T,) or (B, T), of at least one token");
        TokenRows rows{tokens.ndim() == 2 ? tokens.shape(0) : 1, tokens.shape(tokens.ndim() - 1), {}};
        rows.tokens.assign(tokens.data(), tokens.data() + tokens.size());
        for (const int32_t token : rows.tokens) check_token(token);
        return rows;
    }
    // The options that the optimizer's state depends on, and its file.
    void check_resumable(const ModelFile& file) const {
        const auto now = to_json(config_);
        for (const char* key : {"optimizer", "dtype"})
            if (file.config.is_object() && file.config.contains(key) && file.config.at(key) != now.at(key))
                fail_data(file.path, " has ", key, " = ", file.config.at(key).dump(), ", this model ",
                          now.at(key).dump(), ": give the same, or load only the weights (resume=False)");
        if (!fs::exists(fs::path(file.path).parent_path() / "optimizer.safetensors"))
            fail_damaged(file.path, " has no optimizer.safetensors beside it: load only the weights (resume=False)");
        check_complete(file, false);
    }
    template <class Collect>
    static NamedValues collect(Collect&& from) {
        NamedValues values;
        const Turn turn;
        from(values);
        return values;
    }
    void check_token(int32_t token) const {
        if (token < 0 || token >= model_.shape.vocab_size)
            fail_usage("token ", token, " is outside the vocabulary of ", model_.shape.vocab_size);
    }
    HostBatch host_batch(const Tokens& tokens, const std::optional<Targets>& targets) {
        {
            const Turn turn;
            has_targets_ = false;  // after a refused batch, backward() must not take an earlier one
        }
        if (tokens.ndim() != 2) fail_usage("tokens have the shape ", shape_text(tokens), ": give (B, T)");
        HostBatch batch{int(tokens.shape(0)), int(tokens.shape(1)), {}, {}};
        batch.tokens.assign(tokens.data(), tokens.data() + tokens.size());
        for (const int32_t token : batch.tokens) check_token(token);
        if (!targets) return batch;
        if (targets->ndim() != 2 || targets->shape(0) != batch.B || targets->shape(1) != batch.T)
            fail_usage("targets have the shape ", shape_text(*targets), ", tokens ", shape_text(tokens),
                       ": give the same");
        batch.targets.assign(targets->data(), targets->data() + targets->size());
        for (const int32_t token : batch.targets)
            if (token != kNoTarget) check_token(token);
        if (std::ranges::all_of(batch.targets, [](int32_t token) { return token == kNoTarget; }))
            fail_usage("all targets are ", kNoTarget, ", which stands for none: there is no loss; leave the batch out");
        return batch;
    }
    // Called in turn.
    void set_batch(const HostBatch& batch) {
        model_.set_batch(batch.tokens.data(), batch.targets.empty() ? nullptr : batch.targets.data(), batch.B, batch.T);
        has_targets_ = !batch.targets.empty();
    }

    Config config_;
    GPT2 model_;
    Optimizer optimizer_;
    TrainingState state_;
    ModelTokenizer tokenizer_;
    bool has_targets_ = false, has_gradients_ = false;
};

// Deletes a model when no other thread uses the device.
struct DeleteInTurn {
    void operator()(PythonGPT2* model) const {
        const Turn turn;
        delete model;
    }
};

}  // namespace

void bind_model(py::module_& m) {
    m.def(
        "parametrization",
        [](const py::kwargs& options) {
            const ModelParts parts = model_parts(options);
            return to_python(make_rules(parts.config, parts.shape).to_json(tensor_specs(parts.shape)));
        },
        "The resolved rule of every tensor, as train_gpt2 --dry-run prints it: a dict. Keyword arguments are "
        "train_gpt2's long options with underscores.");
    m.def(
        "checkpoint_options",
        [](const std::string& path) {
            const auto file = ModelFile::open(path);
            nlohmann::ordered_json taken = nlohmann::ordered_json::object();
            if (file->config.is_object()) {
                const auto stored = to_json(from_json(file->config, file->path));
                for (const Option& option : options())
                    if ((option.scope & kModel) && option.stored) taken[option.key()] = stored.at(option.key());
            }
            return to_python(taken);
        },
        "The model options that a checkpoint was trained with; empty for files of other projects.",
        py::arg("checkpoint"));
    m.def(
        "plan_arena",
        [](const std::vector<std::pair<size_t, std::vector<std::pair<int, int>>>>& buffers) {
            std::vector<ArenaBuffer> described;
            for (auto& [bytes, lives] : buffers) {
                described.push_back({bytes, {}});
                for (auto& [first, last] : lives) described.back().lives.push_back({first, last});
            }
            const ArenaPlan plan = plan_arena(described);
            return py::dict(py::arg("offsets") = plan.offsets, py::arg("bytes") = plan.bytes,
                            py::arg("most_alive") = plan.most_alive);
        },
        "Offsets of buffers [(bytes, [(first, last moment), ...]), ...] in one arena: {offsets, bytes, most_alive}.",
        py::arg("buffers"));
    m.def(
        "activation_bytes",
        [](bool train, const py::kwargs& options) {
            const ModelParts parts = model_parts(options);
            GPT2Options model_options = gpt2_options(parts.config);
            model_options.train = train;
            return GPT2::memory(parts.shape, model_options).activations;
        },
        "Bytes of a model's activations.", py::arg("train") = true);

    py::class_<PythonGPT2, std::unique_ptr<PythonGPT2, DeleteInTurn>>(
        m, "GPT2",
        "GPT-2 with its optimizer. Keyword arguments are train_gpt2's long options with underscores (width=128, "
        "parametrization=\"mup\", ...); "
        "batch_size and seq_len are the largest batch; logits_rows: rows of logits in memory at a time (0: automatic). "
        "tokenizer: as of save().")
        .def(py::init([](int64_t logits_rows, const std::string& tokenizer, const py::kwargs& options) {
                 const ModelParts parts = model_parts(options);
                 const Turn turn;
                 return std::unique_ptr<PythonGPT2, DeleteInTurn>(new PythonGPT2(parts, logits_rows, tokenizer));
             }),
             py::arg("logits_rows") = 0, py::arg("tokenizer") = "")
        .def("forward", &PythonGPT2::forward,
             "tokens (B, T) -> logits (B, T, V), or with targets (B, T) the mean loss in nats.", py::arg("tokens"),
             py::arg("targets") = py::none())
        .def("backward", &PythonGPT2::backward,
             "Adds the gradients of the last forward()'s loss, sum / total_tokens (default: number of targets), and "
             "returns that "
             "loss.",
             py::arg("total_tokens") = 0)
        .def("step", &PythonGPT2::step,
             "One optimizer step with all learning rates times `schedule`; returns the gradient norm before clipping.",
             py::arg("schedule") = 1.0)
        .def("zero_grad", &PythonGPT2::zero_grad, "Sets all gradients to 0.")
        .def("parameters", &PythonGPT2::parameters,
             "Copies of all parameters by name, (out, in), without padding rows.")
        .def("gradients", &PythonGPT2::gradients, "Copies of all gradients by name, accumulated since zero_grad().")
        .def("optimizer_state", &PythonGPT2::state, "Copies of the moments and master weights by name.")
        .def("set_parameter", &PythonGPT2::set_parameter, "Overwrites one parameter.", py::arg("name"),
             py::arg("values"))
        .def("activations", &PythonGPT2::activations, "Every activation of a forward pass by name, (B*T, channels).",
             py::arg("tokens"), py::arg("targets"))
        .def("continue_tokens", &PythonGPT2::continue_tokens, "Of each sample the tokens that follow `tokens`.",
             py::arg("tokens"), py::arg("request"))
        .def("continue_text", &PythonGPT2::continue_text,
             "Of each sample the text that follows the prompt, to the end of the document.", py::arg("prompt"),
             py::arg("request"))
        .def("encode", &PythonGPT2::encode, "The tokens of a text, after that of the end of a document.",
             py::arg("text"))
        .def("logits", &PythonGPT2::logits, "tokens (T,) or (B, T) -> logits (T, V) or (B, T, V).", py::arg("tokens"))
        .def("loss", &PythonGPT2::loss, "Mean loss of all tokens but the first of each row, nats per token.",
             py::arg("tokens"))
        .def("load", &PythonGPT2::load,
             "Loads the weights of a checkpoint, and with `resume` the optimizer's state and the number of steps.",
             py::arg("checkpoint"), py::arg("resume") = false)
        .def("save", &PythonGPT2::save,
             "Writes FOLDER/checkpoints/step_XXXXXXXX and returns its path. tokenizer: \"byte\", \"unknown\", the path "
             "of "
             "a tokenizer.bin, or \"\" for that of the model.",
             py::arg("folder"), py::arg("tokenizer") = "")
        .def_property_readonly("steps", &PythonGPT2::steps, "Number of steps of the optimizer.")
        .def_property_readonly("parametrization", &PythonGPT2::rules, "The resolved rule table.")
        .def_property_readonly("config", &PythonGPT2::config, "All resolved options, by name with underscores.")
        .def_property_readonly("backend", [](const PythonGPT2&) { return device::backend(); });
}

}  // namespace llmc
