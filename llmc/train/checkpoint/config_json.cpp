#include "llmc/train/checkpoint/config_json.h"

#include <algorithm>
#include <filesystem>

#include "llmc/core/error.h"
#include "llmc/core/json_file.h"

namespace llmc {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// transformers' names of the tanh approximation of the GELU.
const json kTanhGelus = {"gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"};

// Keys that have one value here. An absent key has transformers' default, which is that value.
struct Only {
    const char* key;
    json allowed;  // values
    const char* have;
};
const std::vector<Only>& only() {
    static const std::vector<Only> list = {
        {"model_type", {"gpt2"}, "GPT-2"},
        {"activation_function", kTanhGelus, "the GELU by tanh (gelu_new)"},
        {"layer_norm_epsilon", {1e-5}, "layer norms with epsilon 1e-5"},
        {"scale_attn_by_inverse_layer_idx", {false}, "the same attention scale in all blocks"},
        {"add_cross_attention", {false, nullptr}, "attention within one sequence"},
        {"pruned_heads", {json::object(), nullptr}, "all heads"},
    };
    return list;
}

// Other names of the same numbers, which transformers takes, too.
constexpr std::pair<const char*, const char*> kAliases[] = {{"num_hidden_layers", "n_layer"},
                                                            {"hidden_size", "n_embd"},
                                                            {"num_attention_heads", "n_head"},
                                                            {"max_position_embeddings", "n_positions"}};
constexpr int kDefaultHeads = 12;  // transformers', without n_head

class Reader {
public:
    Reader(const std::string& path, const ModelShape& shape) : path_(path), shape_(shape) {
        root_ = read_json(path);
        if (!root_.is_object()) fail_data(path_, " is damaged: it is not a JSON object");
        for (const auto& [alias, key] : kAliases) {
            if (!has(alias)) continue;
            if (has(key) && root_[key] != root_[alias])
                fail_data(path_, " says ", key, " = ", root_[key].dump(), " and ", alias, " = ", root_[alias].dump(),
                          ", which are names of the same number");
            root_[key] = root_[alias];
        }
    }

    PublishedConfig read() const {
        for (const Only& o : only())
            if (root_.contains(o.key) && std::find(o.allowed.begin(), o.allowed.end(), root_[o.key]) == o.allowed.end())
                fail_data(path_, " says ", o.key, " = ", root_[o.key].dump(), ": this program has ", o.have,
                          " and would compute another function");
        check_architectures();
        if (has("quantization_config"))
            fail_data(path_, " has a quantization_config: this program reads weights that are not quantized");
        agree("n_layer", shape_.depth, "blocks");
        agree("n_embd", shape_.width, "channels");
        agree(has("n_positions") ? "n_positions" : "n_ctx", shape_.max_seq_len, "positions");
        const std::optional<int> vocab_size = whole("vocab_size");
        if (vocab_size > shape_.vocab_size) agree("vocab_size", shape_.vocab_size, "rows of wte.weight");
        if (const std::optional<int> inner = whole("n_inner"); inner && *inner != 4 * shape_.width)
            fail_data(path_, " says n_inner = ", *inner, ": this program has MLPs of 4 x ", shape_.width,
                      " channels and would compute another function");
        return {path_, heads(), vocab_size, flag("tie_word_embeddings"), flag("scale_attn_weights").value_or(true)};
    }

private:
    // model_type decides where it is said.
    void check_architectures() const {
        if (has("model_type") || !has("architectures")) return;
        for (const json& name : root_["architectures"])
            if (!name.is_string() || !name.get<std::string>().starts_with("GPT2"))
                fail_data(path_, " says architectures = ", root_["architectures"].dump(),
                          ": this program has GPT-2 and would compute another function");
    }
    bool has(const char* key) const { return root_.contains(key) && !root_[key].is_null(); }
    std::optional<int> whole(const char* key) const {
        if (!has(key)) return {};
        if (!root_[key].is_number_integer() || root_[key] < 1 || root_[key] > 1 << 30)
            fail_data(path_, " says ", key, " = ", root_[key].dump(), ", which is not a whole number above 0");
        return root_[key].get<int>();
    }
    std::optional<bool> flag(const char* key) const {
        if (!has(key)) return {};
        if (!root_[key].is_boolean())
            fail_data(path_, " says ", key, " = ", root_[key].dump(), ", which is not true or false");
        return root_[key].get<bool>();
    }
    void agree(const char* key, int has, const char* what) const {
        if (const std::optional<int> said = whole(key); said && *said != has)
            fail_data(path_, " says ", key, " = ", *said, ", the weights beside it have ", has, " ", what,
                      ": it belongs to another model, or the weights do");
    }
    std::optional<int> heads() const {
        const std::optional<int> heads = whole("n_head");
        if (heads && shape_.width % *heads)
            fail_data(path_, " says n_head = ", *heads, ", which does not divide the width ", shape_.width);
        if (!heads && shape_.width % kDefaultHeads == 0) return kDefaultHeads;
        return heads;
    }

    std::string path_;
    const ModelShape& shape_;
    json root_;
};

}  // namespace

std::optional<PublishedConfig> read_config_json(const std::string& folder, const ModelShape& shape) {
    const fs::path path = fs::path(folder) / "config.json";
    if (!fs::is_regular_file(path)) return {};
    return Reader(path.string(), shape).read();
}

}  // namespace llmc
