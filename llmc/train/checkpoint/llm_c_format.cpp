// llm.c's model file: 256 int32 of header (magic 20240326; version 3 = fp32, 5 = bf16; maxT, V, L, NH, C, Vp), then the
// tensors one after the other, each for all layers at once, matrices as (out, in): wte, wpe, ln1w, ln1b, qkvw, qkvb,
// attprojw, attprojb, ln2w, ln2b, fcw, fcb, fcprojw, fcprojb, lnfw, lnfb. The head is tied.
#include <cstring>
#include <fstream>
#include <map>

#include "llmc/core/error.h"
#include "llmc/train/checkpoint/checkpoint.h"
#include "llmc/train/checkpoint/safetensors.h"

namespace llmc {
namespace {

class LlmcModel : public ModelFile {
public:
    explicit LlmcModel(const std::string& p) : in_(p, std::ios::binary) {
        path = p;
        tokenizer = "gpt2";
        int32_t h[256] = {};
        if (!in_.read(reinterpret_cast<char*>(h), sizeof h))
            fail_data(path, " is not an llm.c model: it is shorter than the header of 1024 bytes");
        if (h[0] != 20240326) fail_data(path, " is not an llm.c model: its magic number is ", h[0], ", not 20240326");
        if (h[1] != 3 && h[1] != 5)
            fail_data(path, " is an llm.c model of version ", h[1], "; this program reads 3 (fp32) and 5 (bf16)");
        dtype_ = h[1] == 3 ? DType::f32 : DType::bf16;
        shape = {h[4], h[5], h[6], h[2], h[3], true};
        for (int i = 2; i <= 7; ++i)
            if (h[i] <= 0) fail_data(path, " is damaged: header field ", i, " is ", h[i]);
        if (shape.width % shape.heads)
            fail_data(path, " is damaged: ", shape.heads, " heads do not divide the width ", shape.width);
        if (h[7] < h[3])
            fail_data(path, " is damaged: the padded vocabulary ", h[7], " is smaller than the vocabulary ", h[3]);
        locate(h[7]);
    }
    std::vector<float> values(const TensorSpec& spec) const override {
        const int64_t n = spec.count();
        in_.seekg(std::streamoff(1024 + offsets_.at(spec.name) * int64_t(size_of(dtype_))));
        std::vector<float> out(n);
        if (dtype_ == DType::f32) {
            in_.read(reinterpret_cast<char*>(out.data()), n * 4);
        } else {
            std::vector<bf16> raw(n);
            in_.read(reinterpret_cast<char*>(raw.data()), n * 2);
            for (int64_t i = 0; i < n; ++i) out[i] = to_float(raw[i]);
        }
        if (!in_) fail_data(path, " cannot be read at tensor ", spec.name);
        check_finite(out, path, spec.name);
        return out;
    }

private:
    void locate(int64_t padded_vocab) {
        const int64_t C = shape.width, L = shape.depth;
        int64_t offset = 0;
        auto once = [&](const std::string& name, int64_t n) {
            offsets_[name] = offset;
            offset += n;
        };
        auto per_layer = [&](const std::string& name, int64_t n) {
            for (int64_t l = 0; l < L; ++l) once(str("h.", l, ".", name), n);
        };
        once("wte.weight", padded_vocab * C);
        once("wpe.weight", shape.max_seq_len * C);
        per_layer("ln_1.weight", C), per_layer("ln_1.bias", C);
        per_layer("attn.c_attn.weight", 3 * C * C), per_layer("attn.c_attn.bias", 3 * C);
        per_layer("attn.c_proj.weight", C * C), per_layer("attn.c_proj.bias", C);
        per_layer("ln_2.weight", C), per_layer("ln_2.bias", C);
        per_layer("mlp.c_fc.weight", 4 * C * C), per_layer("mlp.c_fc.bias", 4 * C);
        per_layer("mlp.c_proj.weight", 4 * C * C), per_layer("mlp.c_proj.bias", C);
        once("ln_f.weight", C), once("ln_f.bias", C);
        in_.seekg(0, std::ios::end);
        const int64_t expected = 1024 + offset * int64_t(size_of(dtype_)), size = int64_t(in_.tellg());
        if (size != expected)
            fail_data(path, " is truncated or damaged: a model of its header's shape has ", expected,
                      " bytes, the file ", size);
    }

    mutable std::ifstream in_;
    DType dtype_;
    std::map<std::string, int64_t> offsets_;  // in elements
};

}  // namespace

std::unique_ptr<ModelFile> open_llmc_model(const std::string& path) { return std::make_unique<LlmcModel>(path); }

}  // namespace llmc
