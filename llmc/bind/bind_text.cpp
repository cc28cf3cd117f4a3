// Tokenizers, the options of sampling and the choice of a token, for Python.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <numeric>

#include "llmc/bind/bind.h"
#include "llmc/bind/sample_request.h"
#include "llmc/core/error.h"
#include "llmc/data/tokenizer.h"

namespace py = pybind11;

namespace llmc {
namespace {

using Logits = std::vector<float>;
using Context = std::vector<int32_t>;

void check_lists(const Logits& logits, const Context& context) {
    if (logits.empty()) fail_usage("logits are empty: give at least one");
    for (const int32_t token : context)
        if (token < 0 || size_t(token) >= logits.size())
            fail_usage("token ", token, " of the context is outside the vocabulary of ", logits.size());
}

int32_t chosen(const Logits& logits, double temperature, int top_k, double uniform, double top_p,
               double repetition_penalty, const Context& context) {
    check_lists(logits, context);
    return choose_token(logits, context, python::choice_of(temperature, top_k, top_p, repetition_penalty), uniform);
}

// (V,), 0 where a token cannot be chosen.
py::array_t<double> probabilities(const Logits& logits, double temperature, int top_k, double top_p,
                                  double repetition_penalty, const Context& context) {
    check_lists(logits, context);
    const Candidates from = candidates(logits, context,
                                       python::choice_of(temperature, top_k, top_p, repetition_penalty));
    std::vector<double> out(logits.size());
    const double sum = std::accumulate(from.weights.begin(), from.weights.end(), 0.0);
    for (size_t i = 0; i < from.tokens.size(); ++i) out[size_t(from.tokens[i])] = from.weights[i] / sum;
    return py::array_t<double>(py::ssize_t(out.size()), out.data());
}

}  // namespace

void bind_text(py::module_& m) {
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
    // module_local: the modules of several backends are loaded together, and each has the class
    py::class_<python::SampleRequest>(m, "SampleRequest", "What to generate: the options of sampling, checked.",
                                      py::module_local())
        .def(py::init<int, double, int, double, double, int, std::string, int64_t, bool>(), py::arg("count"),
             py::arg("temperature") = 0.8, py::arg("top_k") = 0, py::arg("top_p") = 1.0,
             py::arg("repetition_penalty") = 1.0, py::arg("samples") = 1, py::arg("stop") = "", py::arg("seed") = 42,
             py::arg("cache") = true);
    m.def("choose_token", chosen, "The token that the sampler chooses from logits with a uniform number.",
          py::arg("logits"), py::arg("temperature"), py::arg("top_k"), py::arg("uniform"), py::arg("top_p") = 1.0,
          py::arg("repetition_penalty") = 1.0, py::arg("context") = Context());
    m.def("token_probabilities", probabilities,
          "The probabilities with which the sampler chooses, (V,): 0 for tokens that top_k or top_p leave out.",
          py::arg("logits"), py::arg("temperature") = 1.0, py::arg("top_k") = 0, py::arg("top_p") = 1.0,
          py::arg("repetition_penalty") = 1.0, py::arg("context") = Context());
}

}  // namespace llmc
