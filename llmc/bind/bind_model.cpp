// GPT2 and the parametrization's rule table, for Python.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "llmc/bind/bind.h"
#include "llmc/bind/keywords.h"
#include "llmc/core/error.h"
#include "llmc/gpt2/arena.h"
#include "llmc/train/checkpoint/checkpoint.h"
#include "llmc/train/sampler.h"

namespace py = pybind11;

namespace llmc {
namespace {

using python::model_parts;
using python::ModelParts;
using python::to_python;
using Tokens = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;
using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

Floats array(const std::vector<float>& values, const std::vector<int64_t>& shape) {
    Floats out(shape);
    std::copy(values.begin(), values.end(), out.mutable_data());
    return out;
}

// As the command line checks --temperature and --top-k.
void check_sampling(double temperature, int top_k) {
    check_value(*find_option("temperature"), temperature, "temperature");
    check_value(*find_option("top_k"), top_k, "top_k");
}

class PythonGPT2 {
public:
    PythonGPT2(const ModelParts& parts, int64_t logits_rows)
        : config_(parts.config),
          model_(parts.shape, make_rules(parts.config, parts.shape), options_of(parts.config, logits_rows)),
          optimizer_(model_, config_.optimizer, config_.rounding, uint64_t(config_.machine.seed)) {
        if (parts.weights)
            load_weights(*parts.weights, model_);
        else
            model_.parameters.initialise(uint64_t(config_.machine.seed));
        optimizer_.masters_from_parameters();
    }

    py::object forward(const Tokens& tokens, const std::optional<Tokens>& targets) {
        set_batch(tokens, targets);
        if (targets) return py::float_(model_.mean_loss());
        model_.forward();
        return array(model_.logits(0, int64_t{B_} * T_), {B_, T_, model_.shape.vocab_size});
    }
    double backward(int64_t total_tokens) {
        if (!has_targets_) fail_usage("backward() needs a forward() with targets before it");
        if (total_tokens < 0) fail_usage("total_tokens is ", total_tokens, ": give at least 1, or 0 for B*T");
        model_.zero_loss();
        model_.loss_and_head_backward(float(1.0 / double(total_tokens > 0 ? total_tokens : int64_t{B_} * T_)));
        model_.backward();
        has_targets_ = false;  // the backward pass has overwritten what another backward() would need
        return model_.loss();
    }
    double step(double schedule) {
        if (!(schedule >= 0) || !std::isfinite(schedule))
            fail_usage("schedule is ", schedule, ": give a finite factor of the learning rates, at least 0");
        has_targets_ = false;  // the activations are those of the weights before the step
        optimizer_.compute_grad_norm();
        optimizer_.step(schedule, ++steps_);
        return optimizer_.grad_norm();
    }
    py::dict parameters() {
        py::dict out;
        for (Parameter& p : model_.parameters.all())
            out[py::str(p.spec.name)] = array(Parameters::get(p), p.spec.shape);
        return out;
    }
    py::dict gradients() {
        py::dict out;
        for (Parameter& p : model_.parameters.all())
            out[py::str(p.spec.name)] = array(download(p.grad, p.spec.count()), p.spec.shape);
        return out;
    }
    py::dict state() {
        py::dict out;
        for (const Optimizer::State& s : optimizer_.state())
            out[py::str(s.name)] = array(download(s.value, s.parameter->spec.count()), s.parameter->spec.shape);
        return out;
    }
    void set_parameter(const std::string& name, const Floats& values) {
        Parameter& p = model_.parameters.find(name);
        if (std::vector<int64_t>(values.shape(), values.shape() + values.ndim()) != p.spec.shape)
            fail_usage(name, " does not have the shape of the array given");
        has_targets_ = false;
        Parameters::set(p, std::vector<float>(values.data(), values.data() + values.size()));
        optimizer_.masters_from_parameters();
    }
    // Every activation of one forward pass by name, (rows, channels). "logits" arrives in chunks.
    py::dict activations(const Tokens& tokens, const Tokens& targets) {
        std::map<std::string, std::pair<std::vector<float>, int64_t>> seen;
        model_.observer = [&](const std::string& name, Tensor value) {
            const std::vector<float> values = download(value, value.numel());
            auto& [all, columns] = seen[name];
            all.insert(all.end(), values.begin(), values.end());
            columns = value.last();
        };
        try {
            forward(tokens, targets);
        } catch (...) {
            model_.observer = nullptr;  // it refers to `seen`
            throw;
        }
        model_.observer = nullptr;
        py::dict out;
        for (auto& [name, values] : seen)
            out[py::str(name)] = array(values.first, {int64_t(values.first.size()) / values.second, values.second});
        return out;
    }
    std::vector<int32_t> generate(std::vector<int32_t> tokens, int count, double temperature, int top_k, int64_t seed,
                                  bool cache) {
        check_sampling(temperature, top_k);
        if (count < 0) fail_usage("count is ", count, ": give the number of tokens, at least 0");
        if (seed < 0) fail_usage("seed is ", seed, ": give at least 0");
        if (tokens.empty()) fail_usage("there is no token to continue from: give at least one");
        for (const int32_t token : tokens)
            if (token < 0 || token >= model_.shape.vocab_size)
                fail_usage("token ", token, " is outside the vocabulary of ", model_.shape.vocab_size);
        has_targets_ = false;  // sampling overwrites the batch and its activations
        return llmc::generate(
            model_, std::move(tokens), config_.model.seq_len, -1,
            {.temperature = temperature, .top_k = top_k, .count = count, .seed = uint64_t(seed), .cache = cache});
    }
    void load(const std::string& path) {
        has_targets_ = false;
        load_weights(*ModelFile::open(path), model_);
        optimizer_.masters_from_parameters();
    }
    void zero_grad() { model_.parameters.zero_grad(); }
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
    void set_batch(const Tokens& tokens, const std::optional<Tokens>& targets) {
        has_targets_ = false;
        if (tokens.ndim() != 2)
            fail_usage("tokens must have the shape (B, T), they have ", tokens.ndim(), " dimensions");
        for (const Tokens* t : {&tokens, targets ? &*targets : nullptr}) {
            if (!t) continue;
            if (t->ndim() != 2 || t->shape(0) != tokens.shape(0) || t->shape(1) != tokens.shape(1))
                fail_usage("targets must have the shape of tokens");
            for (int64_t i = 0; i < t->size(); ++i)
                if (t->data()[i] < 0 || t->data()[i] >= model_.shape.vocab_size)
                    fail_usage("token ", t->data()[i], " is outside the vocabulary of ", model_.shape.vocab_size);
        }
        const int B = int(tokens.shape(0)), T = int(tokens.shape(1));
        model_.set_batch(tokens.data(), targets ? targets->data() : nullptr, B, T);
        B_ = B, T_ = T;
        has_targets_ = targets.has_value();
    }

    Config config_;
    GPT2 model_;
    Optimizer optimizer_;
    int B_ = 0, T_ = 0;
    int64_t steps_ = 0;
    bool has_targets_ = false;
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
        "encode",
        [](const std::string& text, const std::string& tokenizer_path) {
            return (tokenizer_path.empty() ? Tokenizer::byte() : Tokenizer::load(tokenizer_path)).encode(text);
        },
        "Tokens of a text: its bytes, or those of a tokenizer.bin.", py::arg("text"), py::arg("tokenizer") = "");
    m.def(
        "decode",
        [](const std::vector<int32_t>& tokens, const std::string& tokenizer_path) {
            return py::bytes(
                (tokenizer_path.empty() ? Tokenizer::byte() : Tokenizer::load(tokenizer_path)).decode(tokens));
        },
        "The text of tokens, as bytes.", py::arg("tokens"), py::arg("tokenizer") = "");
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
    m.def(
        "choose_token",
        [](const std::vector<float>& logits, double temperature, int top_k, double uniform) {
            if (logits.empty()) fail_usage("logits are empty: give at least one");
            check_sampling(temperature, top_k);
            return choose_token(logits, temperature, top_k, uniform);
        },
        "The token that the sampler chooses from logits with a uniform number.", py::arg("logits"),
        py::arg("temperature"), py::arg("top_k"), py::arg("uniform"));

    py::class_<PythonGPT2>(
        m, "GPT2",
        "GPT-2 with its optimizer. Keyword arguments are train_gpt2's long options with underscores (width=128, "
        "parametrization=\"mup\", ...); "
        "batch_size and seq_len are the largest batch; logits_rows: rows of logits in memory at a time (0: automatic).")
        .def(py::init([](int64_t logits_rows, const py::kwargs& options) {
                 return std::make_unique<PythonGPT2>(model_parts(options), logits_rows);
             }),
             py::arg("logits_rows") = 0)
        .def("forward", &PythonGPT2::forward,
             "tokens (B, T) -> logits (B, T, V), or with targets (B, T) the mean loss in nats.", py::arg("tokens"),
             py::arg("targets") = py::none())
        .def("backward", &PythonGPT2::backward,
             "Adds the gradients of the last forward()'s loss, sum / total_tokens (default: B*T), and returns that "
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
        .def("generate", &PythonGPT2::generate,
             "`count` tokens sampled after `tokens`. cache=False computes the whole context again for every token.",
             py::arg("tokens"), py::arg("count"), py::arg("temperature") = 0.8, py::arg("top_k") = 0,
             py::arg("seed") = 42, py::arg("cache") = true)
        .def("load", &PythonGPT2::load, "Loads the weights of a checkpoint.", py::arg("checkpoint"))
        .def_property_readonly("parametrization", &PythonGPT2::rules, "The resolved rule table.")
        .def_property_readonly("config", &PythonGPT2::config, "All resolved options, by name with underscores.")
        .def_property_readonly("backend", [](const PythonGPT2&) { return device::backend(); });
}

}  // namespace llmc
