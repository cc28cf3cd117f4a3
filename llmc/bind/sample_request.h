// The options of sampling as arguments of Python functions, checked as on the command line.
#pragma once
#include <string>

#include "llmc/train/sampler.h"

namespace llmc::python {

Choice choice_of(double temperature, int top_k, double top_p, double repetition_penalty);

struct SampleRequest {
    SampleRequest(int count, double temperature, int top_k, double top_p, double repetition_penalty, int samples,
                  const std::string& stop, int64_t seed, bool cache);
    SampleOptions options;
    int samples;
};

}  // namespace llmc::python
