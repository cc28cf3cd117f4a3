#include "llmc/bind/sample_request.h"

#include "llmc/core/error.h"
#include "llmc/train/options/settings.h"

namespace llmc::python {
namespace {

void check(const char* option, const nlohmann::json& value) { check_value(*find_option(option), value, option); }

}  // namespace

Choice choice_of(double temperature, int top_k, double top_p, double repetition_penalty) {
    check("temperature", temperature);
    check("top_k", top_k);
    check("top_p", top_p);
    check("repetition_penalty", repetition_penalty);
    return {.repetition_penalty = repetition_penalty, .temperature = temperature, .top_k = top_k, .top_p = top_p};
}

SampleRequest::SampleRequest(int count, double temperature, int top_k, double top_p, double repetition_penalty,
                             int samples, const std::string& stop, int64_t seed, bool cache)
    : samples(samples) {
    check("samples", samples);
    if (count < 0) fail_usage("count is ", count, ": give the number of tokens, at least 0");
    if (seed < 0) fail_usage("seed is ", seed, ": give at least 0");
    options.choice = choice_of(temperature, top_k, top_p, repetition_penalty);
    options.count = count, options.stop = stop, options.seed = uint64_t(seed), options.cache = cache;
}

}  // namespace llmc::python
