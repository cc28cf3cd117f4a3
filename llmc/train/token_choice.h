// The choice of the next token from logits.
#pragma once
#include <cstdint>
#include <vector>

#include "llmc/core/error.h"

namespace llmc {

// Logits that are not finite have no likeliest token.
struct NotFinite : Error {
    NotFinite() : Error(kExitDiverged, "the model's logits are not finite") {}
};

// Applied in this order, that of transformers: repetition_penalty, temperature, top_k, top_p.
struct Choice {
    // Of tokens that are in the context: a positive logit is divided by it, a negative one multiplied; 1: none. Keskar et
    // al., "CTRL: a conditional transformer language model for controllable generation", 2019.
    double repetition_penalty = 1;
    double temperature = 0.8;  // probabilities are softmax(logits / temperature); 0: the likeliest token
    int top_k = 0;             // only the top_k likeliest; 0: all
    // Only the fewest likeliest tokens whose probabilities, with those of top_k adding up to 1, reach top_p; 1: all.
    // Holtzman et al., "The curious case of neural text degeneration", 2019.
    double top_p = 1;
};

// The tokens that may be chosen: by token id, or from the likeliest on if top_k or top_p leave some out. Of equal ones
// the lower id comes first.
struct Candidates {
    std::vector<int32_t> tokens;
    std::vector<double> weights;  // proportional to the probabilities, at most 1
};

// context: the tokens so far, below logits.size(). Throws NotFinite.
Candidates candidates(const std::vector<float>& logits, const std::vector<int32_t>& context, const Choice& choice);

// The candidate at which the cumulative probability reaches `uniform`, in (0, 1). Throws NotFinite.
int32_t choose_token(const std::vector<float>& logits, const std::vector<int32_t>& context, const Choice& choice,
                     double uniform);

}  // namespace llmc
