// GPT-2 as transformers writes it: one file or several with an index, names with or without "transformer.", a head of
// its own or that of wte, attention masks and other tensors that are not used.
#include <algorithm>

#include "llmc/core/error.h"
#include "llmc/train/checkpoint/checkpoint.h"
#include "llmc/train/checkpoint/config_json.h"
#include "llmc/train/checkpoint/layout.h"
#include "llmc/train/checkpoint/weight_files.h"

namespace llmc {
namespace {

constexpr const char* kHead = "lm_head.weight";
// The last two are masks, which are not read.
const std::vector<std::string> kOfBlock = {
    "ln_1.weight",       "ln_1.bias",       "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight",
    "attn.c_proj.bias",  "ln_2.weight",     "ln_2.bias",          "mlp.c_fc.weight",  "mlp.c_fc.bias",
    "mlp.c_proj.weight", "mlp.c_proj.bias", "attn.bias",          "attn.masked_bias"};

class ForeignModel : public ModelFile {
public:
    ForeignModel(std::shared_ptr<const WeightFiles> files, const std::string& folder) : files_(std::move(files)) {
        path = files_->path;
        find_prefix();
        find_head();
        const std::vector<int64_t> wte = matrix("wte.weight", wte_), wpe = matrix("wpe.weight", prefix_ + "wpe.weight");
        const int width = int(wte[1]);
        int depth = 0;
        while (files_->has(str(prefix_, "h.", depth, ".ln_1.weight"))) ++depth;
        if (depth == 0) fail_data(path, " has no tensor '", prefix_, "h.0.ln_1.weight': it is not a GPT-2 checkpoint");
        rows_ = wte[0];
        shape = {depth, std::max(1, width / 64), width, int(wpe[0]), int(rows_), true};
        refuse_nanogpt();
        const std::optional<PublishedConfig> config = read_config_json(folder, shape);
        refuse_other_tensors();
        if (config) {
            heads_known = config->heads.has_value();
            if (heads_known) shape.heads = *config->heads;
            scaled_attention = config->scale_attention;
            cut_padding(*config);
            choose_head(config->tied, config->path);
        } else {
            heads_known = false;
            choose_head({}, "");
        }
    }
    std::vector<float> values(const TensorSpec& spec) const override {
        if (spec.name == "wte.weight") return unpadded(wte_);
        if (spec.name == kHead) return unpadded(head_);
        return from_stored(spec, files_->read(prefix_ + spec.name, stored_shape(spec)));
    }

private:
    void find_prefix() {
        for (const char* prefix : {"", "transformer."})
            for (const char* name : {"wte.weight", "wpe.weight"})
                if (files_->has(prefix + std::string(name))) {
                    prefix_ = prefix;
                    return;
                }
        const std::string first = "h.0.ln_1.weight";
        for (const std::string& name : files_->names())
            if (name.ends_with("." + first) && name != "transformer." + first)
                refuse_wrapped(name.substr(0, name.size() - first.size()));
    }
    [[noreturn]] void refuse_wrapped(const std::string& prefix) {
        prefix_ = prefix;
        const std::string module = prefix.substr(0, prefix.size() - (prefix.ends_with(".transformer.") ? 12 : 0));
        fail_data(
            path, " has names that begin with ", prefix,
            ", as the checkpoints of a compiled, parallel or other module around the GPT-2 in PyTorch: save model.",
            module, "state_dict()", nanogpt_note());
    }
    // Of a matrix that is both head and embedding, safetensors.torch.save_model keeps the first name: the head's.
    void find_head() {
        for (const std::string& name : {prefix_ + kHead, std::string(kHead)})
            if (files_->has(name)) head_ = name;
        wte_ = files_->has(prefix_ + "wte.weight") || head_.empty() ? prefix_ + "wte.weight" : head_;
    }
    std::string nanogpt_note() const {
        return is_out_in() ? "; its matrices are (out, in), as in nanoGPT: " + nanogpt_advice() : "";
    }
    static std::string nanogpt_advice() {
        return "transpose c_attn, c_proj and c_fc, and add biases of 0 if there are none. If it was trained with "
               "nanoGPT's GELU, which is not by tanh, it is still another function";
    }
    bool is_out_in() const {
        const SafetensorsFile::Entry* c_attn = files_->find(prefix_ + "h.0.attn.c_attn.weight");
        return c_attn && c_attn->shape.size() == 2 && c_attn->shape[0] == 3 * c_attn->shape[1];
    }
    void refuse_nanogpt() const {
        if (is_out_in())
            fail_data(path, " has the layout of nanoGPT: ", prefix_, "h.0.attn.c_attn.weight is (out, in), ",
                      3 * shape.width, " x ", shape.width, ", where GPT-2's files have (in, out): ", nanogpt_advice());
        if (!files_->has(prefix_ + "h.0.ln_1.bias"))
            fail_data(path, " has no tensor '", prefix_, "h.0.ln_1.bias': a GPT-2 without biases, as nanoGPT's ",
                      "bias=False makes; add biases of 0");
    }
    // Tensors that would take part in the function: those of a GPT-2's parts that a GPT-2 does not have, and elsewhere
    // all but whole numbers, masks and scalars.
    void refuse_other_tensors() const {
        const std::string blocks = prefix_ + "h.";
        for (const std::string& name : files_->names()) {
            if (name == head_ || name == wte_) continue;
            if (name == "lm_head.bias" || name == prefix_ + "lm_head.bias")
                fail_data(path, " has a tensor '", name, "': a GPT-2's head has no bias, it is another model");
            if (!name.starts_with(blocks)) {
                if (!is_outside_of_blocks(name))
                    fail_data(path, " has a tensor '", name, "', which a GPT-2 does not have: it is another model");
                continue;
            }
            const size_t dot = name.find('.', blocks.size());
            const std::string number = name.substr(blocks.size(), dot - blocks.size());
            if (dot == std::string::npos || number.empty() || number.size() > 6 ||
                number.find_first_not_of("0123456789") != std::string::npos)
                fail_data(path, " has a tensor '", name, "', which a GPT-2 does not have: it is another model");
            if (std::stoi(number) >= shape.depth)
                fail_data(path, " has a tensor '", name, "', but no '", blocks, shape.depth,
                          ".ln_1.weight': a block is missing");
            const std::string rest = name.substr(dot + 1);
            if (std::find(kOfBlock.begin(), kOfBlock.end(), rest) == kOfBlock.end())
                fail_data(path, " has a tensor '", name, "', which a GPT-2 does not have: it is another model");
        }
    }
    // Whether a tensor that is in no block may be there.
    bool is_outside_of_blocks(const std::string& name) const {
        const std::string bare = name.starts_with(prefix_) ? name.substr(prefix_.size()) : name;
        for (const char* known : {"wpe.weight", "ln_f.weight", "ln_f.bias"})
            if (name == prefix_ + known) return true;
        for (const char* part : {"wte.", "wpe.", "ln_f.", "lm_head."})
            if (bare.starts_with(part)) return false;
        const SafetensorsFile::Entry& entry = *files_->find(name);
        const bool whole = entry.dtype == "BOOL" || entry.dtype[0] == 'I' || entry.dtype[0] == 'U';
        return whole || std::all_of(entry.shape.begin(), entry.shape.end(), [](int64_t size) { return size == 1; }) ||
               std::find(entry.shape.begin(), entry.shape.end(), 0) != entry.shape.end();
    }
    std::vector<int64_t> matrix(const char* name, const std::string& full_name) const {
        const SafetensorsFile::Entry* found = files_->find(full_name);
        if (!found || found->shape.size() != 2 || found->shape[0] < 1 || found->shape[1] < 1 ||
            std::max(found->shape[0], found->shape[1]) > 1 << 30)
            fail_data(path, " has no matrix '", name, "': it is not a GPT-2 checkpoint");
        return found->shape;
    }
    void cut_padding(const PublishedConfig& config) {
        shape.vocab_size = config.vocab_size.value_or(shape.vocab_size);
        if (shape.vocab_size < rows_)
            cut_note = str("vocabulary of ", shape.vocab_size, " of the ", rows_, " rows of ", wte_, ", as ",
                           config.path, " says");
    }
    // Embedding or head: the rows of the vocabulary, of all that the file has.
    std::vector<float> unpadded(const std::string& name) const {
        std::vector<float> out = files_->read(name, {rows_, shape.width});
        out.resize(size_t(shape.vocab_size) * size_t(shape.width));
        return out;
    }
    // A head equal to wte is a tied one that was written out.
    void choose_head(std::optional<bool> tied, const std::string& config) {
        if (wte_ == head_) return check_lone_head(tied, config);
        if (head_.empty()) {
            if (tied == false)
                fail_data(config, " says tie_word_embeddings = false, but ", path, " has no tensor '", kHead,
                          "': its head is missing");
            return;
        }
        const bool equal = unpadded(head_) == unpadded(wte_);
        if (tied == true && !equal)
            fail_data(config, " says tie_word_embeddings = true, but ", path, " has a ", head_, " that differs from ",
                      wte_, ": say false there to use it, or remove the tensor");
        shape.tie_embeddings = tied.value_or(equal);
        head_optional = equal;
    }
    void check_lone_head(std::optional<bool> tied, const std::string& config) {
        const std::string missing = prefix_ + "wte.weight";
        if (tied == false)
            fail_data(config, " says tie_word_embeddings = false, but ", path, " has no tensor '", missing,
                      "': its embedding is missing");
        const auto& metadata = files_->first().metadata();  // save_model says there what it left out
        const auto said = metadata.find(missing);
        if (config.empty() && (said == metadata.end() || said->second != head_))
            tie_note = str("embedding assumed tied to ", head_, ", because ", path, " has no ", missing,
                           " and no config.json is beside it");
    }

    std::shared_ptr<const WeightFiles> files_;
    std::string prefix_, head_, wte_;
    int64_t rows_ = 0;  // of embedding and head, with those of padding
};

}  // namespace

std::unique_ptr<ModelFile> open_foreign_model(std::shared_ptr<const WeightFiles> files, const std::string& folder) {
    return std::make_unique<ForeignModel>(std::move(files), folder);
}

}  // namespace llmc
