#include "llmc/train/checkpoint/plain_gpt2.h"

#include <cmath>
#include <cstdio>

#include "llmc/core/error.h"
#include "llmc/data/tokenizer.h"

namespace llmc {

using nlohmann::ordered_json;

std::string factors_outside(const ordered_json& rules, int head_dim) {
    std::string out;
    const auto compare = [&](const std::string& name, double has, double plain) {
        if (std::abs(has - plain) <= 1e-6 * plain) return;
        char text[200];
        std::snprintf(text, sizeof text, "%s%s %g (GPT-2: %g)", out.empty() ? "" : ", ", name.c_str(), has, plain);
        out += text;
    };
    const ordered_json& scales = rules.at("scales");
    for (const char* key : {"embedding", "attention", "attention_out", "gelu", "loss", "output"})
        compare(str("scale ", key), scales.at(key),
                key == std::string("attention") ? std::sqrt(double(head_dim)) / head_dim : 1);
    const ordered_json& residual = scales.at("residual");
    for (size_t i = 0; i < residual.size(); ++i)
        for (const size_t factor : {0, 1})
            compare(str(i % 2 ? "mlp" : "attention", " branch of block ", i / 2), residual.at(i).at(factor), 1);
    for (const ordered_json& tensor : rules.at("tensors"))  // those of the others are in the scales
        if (tensor.at("role") == "hidden" || tensor.at("role") == "vector")
            compare(str("multiplier of ", tensor.at("name").get<std::string>()), tensor.at("multiplier"), 1);
    return out;
}

std::string config_json(const ModelShape& s, DType dtype, const std::string& tokenizer) {
    const ordered_json end = tokenizer == "gpt2"   ? ordered_json(kGpt2VocabSize - 1)
                             : tokenizer == "byte" ? ordered_json(Tokenizer::byte().end_of_document())
                                                   : ordered_json();
    const ordered_json config = {{"architectures", {"GPT2LMHeadModel"}},
                                 {"model_type", "gpt2"},
                                 {"n_layer", s.depth},
                                 {"n_head", s.heads},
                                 {"n_embd", s.width},
                                 {"n_positions", s.max_seq_len},
                                 {"n_inner", nullptr},
                                 {"vocab_size", s.vocab_size},
                                 {"tie_word_embeddings", s.tie_embeddings},
                                 {"activation_function", "gelu_new"},
                                 {"layer_norm_epsilon", 1e-5},
                                 {"scale_attn_weights", true},
                                 {"scale_attn_by_inverse_layer_idx", false},
                                 {"embd_pdrop", 0.0},
                                 {"attn_pdrop", 0.0},
                                 {"resid_pdrop", 0.0},
                                 {"bos_token_id", end},
                                 {"eos_token_id", end},
                                 {"torch_dtype", dtype == DType::f32 ? "float32" : "bfloat16"}};
    return config.dump(2) + "\n";
}

}  // namespace llmc
