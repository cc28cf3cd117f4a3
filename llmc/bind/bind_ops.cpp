// Every op of llmc/ops/ops.h as a function on NumPy arrays: float32 in and out, computed in `dtype`. Overwritten
// results start as NaN; accumulated ones start at the argument of the same name, or at zero. Keywords are named as in
// ops.h. For tests: every call copies.
#include <pybind11/stl.h>
#include "llmc/bind/arrays.h"
#include "llmc/bind/bind.h"
#include "llmc/bind/turn.h"
#include "llmc/core/format.h"
#include "llmc/ops/ops.h"

namespace llmc {

using namespace python;
using namespace pybind11::literals;
using Optional = std::optional<Floats>;

namespace {

constexpr DType f32 = DType::f32;

// An op of the module. Calls of several Python threads take turns.
template <class Function, class... Extra>
void def(py::module_& m, const char* name, Function&& function, const char* doc, const Extra&... extra) {
    m.def(name, std::forward<Function>(function), doc, extra..., py::call_guard<TurnWithGil>());
}

// The extent of dimension i, negative from the end, with a readable error.
int64_t extent(const py::array& a, int i, const char* name) {
    int at = i < 0 ? int(a.ndim()) + i : i;
    if (at < 0 || at >= a.ndim()) fail(name, " has only ", plural(a.ndim(), "dimension"));
    return a.shape(at);
}
int64_t rows_of(const py::array& a, const char* name) {
    int64_t last = extent(a, -1, name);
    return last ? a.size() / last : 0;
}
void require_heads(const char* op, int num_heads) {
    if (num_heads < 1) fail_usage(op, ": num_heads is ", num_heads, ": give at least 1");
}

void bind_embedding(py::module_& m) {
    def(
        m, "embedding_forward",
        [](const TokenIds<"tokens">& tokens, const Floats& wte, const Floats& wpe, float scale,
           const std::string& dtype) {
            DType type = parse_dtype(dtype);
            DeviceArray d_tokens = input(tokens), d_wte = input(wte, type), d_wpe = input(wpe, type);
            DeviceArray out = output({extent(tokens, 0, "tokens"), extent(tokens, 1, "tokens"), extent(wte, -1, "wte")},
                                     type);
            without_gil([&] {
                embedding_forward({.out = out, .tokens = d_tokens, .wte = d_wte, .wpe = d_wpe, .scale = scale});
            });
            return out.download();
        },
        "out (B,T,C) = scale * (wte[tokens] + wpe[t]); tokens (B,T), wte (Vp,C), wpe (maxT,C).", "tokens"_a, "wte"_a,
        "wpe"_a, py::kw_only(), "scale"_a = 1.0f, "dtype"_a = "fp32");

    def(
        m, "embedding_backward",
        [](const Floats& dout, const TokenIds<"tokens">& tokens, const Floats& dwte, const Floats& dwpe,
           float dwte_scale, float dwpe_scale, const std::string& dtype) {
            DeviceArray d_dout = input(dout, parse_dtype(dtype)), d_tokens = input(tokens), d_dwte = input(dwte, f32),
                        d_dwpe = input(dwpe, f32);
            without_gil([&] {
                embedding_backward({.dwte = d_dwte,
                                    .dwpe = d_dwpe,
                                    .dout = d_dout,
                                    .tokens = d_tokens,
                                    .dwte_scale = dwte_scale,
                                    .dwpe_scale = dwpe_scale});
            });
            return py::dict("dwte"_a = d_dwte.download(), "dwpe"_a = d_dwpe.download());
        },
        "dwte (Vp,C) += dwte_scale * sum of dout (B,T,C) per token; dwpe (maxT,C) += dwpe_scale * sum over b. Returns "
        "{dwte, dwpe}.",
        "dout"_a, "tokens"_a, "dwte"_a, "dwpe"_a, py::kw_only(), "dwte_scale"_a = 1.0f, "dwpe_scale"_a = 1.0f,
        "dtype"_a = "fp32");
}

void bind_layernorm(py::module_& m) {
    def(
        m, "layernorm_forward",
        [](const Floats& inp, const Floats& weight, const Floats& bias, float weight_scale, float bias_scale,
           const std::string& dtype) {
            DType type = parse_dtype(dtype);
            int64_t N = rows_of(inp, "inp");
            DeviceArray d_inp = input(inp, type), d_weight = input(weight, type), d_bias = input(bias, type);
            DeviceArray out = output(shape_of(inp), type), mean = output({N}, f32), rstd = output({N}, f32);
            without_gil([&] {
                layernorm_forward({.out = out,
                                   .mean = mean,
                                   .rstd = rstd,
                                   .inp = d_inp,
                                   .weight = d_weight,
                                   .bias = d_bias,
                                   .weight_scale = weight_scale,
                                   .bias_scale = bias_scale});
            });
            return py::dict("out"_a = out.download(), "mean"_a = mean.download(), "rstd"_a = rstd.download());
        },
        "out (N,C) = weight_scale * weight * (inp - mean) * rstd + bias_scale * bias, rstd = 1/sqrt(var + 1e-5). "
        "Returns {out, mean, rstd}.",
        "inp"_a, "weight"_a, "bias"_a, py::kw_only(), "weight_scale"_a = 1.0f, "bias_scale"_a = 1.0f,
        "dtype"_a = "fp32");

    def(
        m, "layernorm_backward",
        [](const Floats& dout, const Floats& inp, const Floats& weight, const Floats& mean, const Floats& rstd,
           const Optional& dskip, bool dinp_is_dskip, const Optional& dweight, const Optional& dbias,
           float weight_scale, float skip_scale, float dinp_scale, float dweight_scale, float dbias_scale,
           const std::string& dtype) {
            DType type = parse_dtype(dtype);
            DeviceArray d_dout = input(dout, type), d_inp = input(inp, type), d_weight = input(weight, type),
                        d_mean = input(mean, f32), d_rstd = input(rstd, f32);
            DeviceArray d_dskip = input(dskip, type), d_dweight = accumulated(dweight, shape_of(weight)),
                        d_dbias = accumulated(dbias, shape_of(weight));
            DeviceArray own = output(shape_of(inp), type);
            const DeviceArray& dinp = dinp_is_dskip ? d_dskip : own;
            without_gil([&] {
                layernorm_backward({.dinp = dinp,
                                    .dweight = d_dweight,
                                    .dbias = d_dbias,
                                    .dout = d_dout,
                                    .inp = d_inp,
                                    .weight = d_weight,
                                    .mean = d_mean,
                                    .rstd = d_rstd,
                                    .dskip = d_dskip,
                                    .weight_scale = weight_scale,
                                    .skip_scale = skip_scale,
                                    .dinp_scale = dinp_scale,
                                    .dweight_scale = dweight_scale,
                                    .dbias_scale = dbias_scale});
            });
            return py::dict("dinp"_a = dinp.download(), "dweight"_a = d_dweight.download(),
                            "dbias"_a = d_dbias.download());
        },
        "dinp (N,C) = skip_scale * dskip + dinp_scale * (input gradient); dweight (C) += ..., dbias (C) += .... "
        "dinp_is_dskip: dinp is written into "
        "dskip's memory. Returns {dinp, dweight, dbias}.",
        "dout"_a, "inp"_a, "weight"_a, "mean"_a, "rstd"_a, py::kw_only(), "dskip"_a = py::none(),
        "dinp_is_dskip"_a = false, "dweight"_a = py::none(), "dbias"_a = py::none(), "weight_scale"_a = 1.0f,
        "skip_scale"_a = 1.0f, "dinp_scale"_a = 1.0f, "dweight_scale"_a = 1.0f, "dbias_scale"_a = 1.0f,
        "dtype"_a = "fp32");
}

void bind_matmul(py::module_& m) {
    def(
        m, "matmul_forward",
        [](const Floats& inp, const Floats& weight, const Optional& bias, bool with_gelu, const Optional& residual,
           float scale, float bias_scale, float skip_scale, float gelu_scale, const std::string& dtype) {
            DType type = parse_dtype(dtype);
            DeviceArray d_inp = input(inp, type), d_weight = input(weight, type), d_bias = input(bias, type),
                        d_residual = input(residual, type);
            Shape shape = {rows_of(inp, "inp"), extent(weight, 0, "weight")};
            DeviceArray out = output(shape, type), pre_gelu = with_gelu ? output(shape, type) : DeviceArray();
            without_gil([&] {
                matmul_forward({.out = out,
                                .inp = d_inp,
                                .weight = d_weight,
                                .bias = d_bias,
                                .pre_gelu = pre_gelu,
                                .residual = d_residual,
                                .scale = scale,
                                .bias_scale = bias_scale,
                                .skip_scale = skip_scale,
                                .gelu_scale = gelu_scale});
            });
            py::dict result("out"_a = out.download());
            if (with_gelu) result["pre_gelu"] = pre_gelu.download();
            return result;
        },
        "linear = scale * inp (N,C) @ weight (OC,C)^T + bias_scale * bias; out (N,OC) = skip_scale * residual + "
        "(with_gelu ? gelu(linear) : linear). "
        "Returns {out} and, with_gelu, {pre_gelu}.",
        "inp"_a, "weight"_a, "bias"_a = py::none(), py::kw_only(), "with_gelu"_a = false, "residual"_a = py::none(),
        "scale"_a = 1.0f, "bias_scale"_a = 1.0f, "skip_scale"_a = 1.0f, "gelu_scale"_a = 1.0f, "dtype"_a = "fp32");

    def(
        m, "matmul_backward",
        [](const Floats& dout, const Optional& inp, const Optional& weight, const Optional& pre_gelu,
           const Optional& dweight, const Optional& dbias, float dinp_scale, float dweight_scale, float dbias_scale,
           float gelu_scale, bool overwrite_dweight, const std::string& dtype) {
            DType type = parse_dtype(dtype);
            DeviceArray d_dout = input(dout, type), d_inp = input(inp, type), d_weight = input(weight, type),
                        d_pre_gelu = input(pre_gelu, type);
            DeviceArray d_dweight = input(dweight, f32), d_dbias = input(dbias, f32);
            DeviceArray dinp = weight ? output({rows_of(dout, "dout"), extent(*weight, -1, "weight")}, type)
                                      : DeviceArray();
            without_gil([&] {
                matmul_backward({.dinp = dinp,
                                 .dweight = d_dweight,
                                 .dbias = d_dbias,
                                 .dout = d_dout,
                                 .inp = d_inp,
                                 .weight = d_weight,
                                 .pre_gelu = d_pre_gelu,
                                 .dinp_scale = dinp_scale,
                                 .dweight_scale = dweight_scale,
                                 .dbias_scale = dbias_scale,
                                 .gelu_scale = gelu_scale,
                                 .overwrite_dweight = overwrite_dweight});
            });
            py::dict result;
            if (weight) result["dinp"] = dinp.download();
            if (dweight) result["dweight"] = d_dweight.download();
            if (dbias) result["dbias"] = d_dbias.download();
            return result;
        },
        "dinp (N,C) = dinp_scale * dout (N,OC) @ weight (OC,C) [* gelu'(pre_gelu)], if weight is given; dweight += "
        "dweight_scale * dout^T @ inp and "
        "dbias += dbias_scale * column sums, each if given; overwrite_dweight: dweight = .... Returns those.",
        "dout"_a, py::kw_only(), "inp"_a = py::none(), "weight"_a = py::none(), "pre_gelu"_a = py::none(),
        "dweight"_a = py::none(), "dbias"_a = py::none(), "dinp_scale"_a = 1.0f, "dweight_scale"_a = 1.0f,
        "dbias_scale"_a = 1.0f, "gelu_scale"_a = 1.0f, "overwrite_dweight"_a = false, "dtype"_a = "fp32");
}

void bind_attention(py::module_& m) {
    def(
        m, "attention_forward",
        [](const Floats& qkv, int num_heads, float logit_scale, float out_scale, int64_t first_query,
           const std::string& dtype) {
            require_heads("attention_forward", num_heads);
            DType type = parse_dtype(dtype);
            int64_t B = extent(qkv, 0, "qkv"), T = extent(qkv, 1, "qkv"), C = extent(qkv, 2, "qkv") / 3;
            DeviceArray d_qkv = input(qkv, type), out = output({B, T, C}, type), lse = output({B, num_heads, T}, f32);
            without_gil([&] {
                attention_forward({.out = out,
                                   .lse = lse,
                                   .qkv = d_qkv,
                                   .logit_scale = logit_scale,
                                   .out_scale = out_scale,
                                   .first_query = first_query});
            });
            return py::dict("out"_a = out.download(), "lse"_a = lse.download());
        },
        "out (B,T,C) = out_scale * softmax(logit_scale * q k^T, causal) v per head, lse (B,H,T); qkv (B,T,3C). Returns "
        "{out, lse}; rows before first_query are undefined.",
        "qkv"_a, py::kw_only(), "num_heads"_a, "logit_scale"_a, "out_scale"_a = 1.0f, "first_query"_a = 0,
        "dtype"_a = "fp32");

    def(
        m, "attention_logits",
        [](const Floats& qkv, int num_heads, float logit_scale, const std::string& dtype) {
            require_heads("attention_logits", num_heads);
            const int64_t T = extent(qkv, 1, "qkv");
            DeviceArray d_qkv = input(qkv, parse_dtype(dtype)),
                        out = output({extent(qkv, 0, "qkv"), num_heads, T * (T + 1) / 2}, f32);
            without_gil([&] { attention_logits({.out = out, .qkv = d_qkv, .logit_scale = logit_scale}); });
            return out.download();
        },
        "(B,H,T(T+1)/2): logit_scale * q_i k_j for j <= i, row i after row i-1; qkv (B,T,3C).", "qkv"_a, py::kw_only(),
        "num_heads"_a, "logit_scale"_a, "dtype"_a = "fp32");

    def(
        m, "attention_backward",
        [](const Floats& dout, const Floats& out, const Floats& lse, const Floats& qkv, float logit_scale,
           float out_scale, const std::string& dtype) {
            DType type = parse_dtype(dtype);
            DeviceArray d_dout = input(dout, type), d_out = input(out, type), d_lse = input(lse, f32),
                        d_qkv = input(qkv, type), dqkv = output(shape_of(qkv), type);
            without_gil([&] {
                attention_backward({.dqkv = dqkv,
                                    .dout = d_dout,
                                    .out = d_out,
                                    .lse = d_lse,
                                    .qkv = d_qkv,
                                    .logit_scale = logit_scale,
                                    .out_scale = out_scale});
            });
            return dqkv.download();
        },
        "dqkv (B,T,3C) from dout (B,T,C) and the forward pass's out (B,T,C), lse (B,H,T), qkv (B,T,3C).", "dout"_a,
        "out"_a, "lse"_a, "qkv"_a, py::kw_only(), "logit_scale"_a, "out_scale"_a = 1.0f, "dtype"_a = "fp32");
}

void bind_gelu_and_classifier(py::module_& m) {
    def(
        m, "gelu_forward",
        [](const Floats& inp, float gelu_scale, const std::string& dtype) {
            DeviceArray d_inp = input(inp, parse_dtype(dtype)), out = output(shape_of(inp), parse_dtype(dtype));
            without_gil([&] { gelu_forward({.out = out, .inp = d_inp, .gelu_scale = gelu_scale}); });
            return out.download();
        },
        "out (N,C) = u(gelu_scale * inp) / gelu_scale, u the tanh form of GELU.", "inp"_a, py::kw_only(),
        "gelu_scale"_a = 1.0f, "dtype"_a = "fp32");

    def(
        m, "gelu_backward",
        [](const Floats& dout, const Floats& inp, bool dinp_is_dout, float gelu_scale, const std::string& dtype) {
            DType type = parse_dtype(dtype);
            DeviceArray d_dout = input(dout, type), d_inp = input(inp, type), own = output(shape_of(inp), type);
            const DeviceArray& dinp = dinp_is_dout ? d_dout : own;
            without_gil([&] { gelu_backward({.dinp = dinp, .dout = d_dout, .inp = d_inp, .gelu_scale = gelu_scale}); });
            return dinp.download();
        },
        "dinp (N,C) = dout * gelu'(inp). dinp_is_dout: written into dout's memory.", "dout"_a, "inp"_a, py::kw_only(),
        "dinp_is_dout"_a = false, "gelu_scale"_a = 1.0f, "dtype"_a = "fp32");

    def(
        m, "classifier",
        [](const Floats& logits, const TokenIds<"targets">& targets, int vocab_size, float logit_scale, float dloss,
           const std::string& dtype) {
            DeviceArray d_logits = input(logits, parse_dtype(dtype)), d_targets = input(targets),
                        losses = output({rows_of(logits, "logits")}, f32);
            without_gil([&] {
                classifier({.losses = losses,
                            .logits = d_logits,
                            .targets = d_targets,
                            .vocab_size = vocab_size,
                            .logit_scale = logit_scale,
                            .dloss = dloss});
            });
            return py::dict("losses"_a = losses.download(), "logits"_a = d_logits.download());
        },
        "losses (N) = -log softmax(logit_scale * logits[:, :vocab_size])[targets]; if dloss is not 0, logits (N,Vp) "
        "becomes d(dloss * sum of losses)/d logits. "
        "Returns {losses, logits}.",
        "logits"_a, "targets"_a, py::kw_only(), "vocab_size"_a, "logit_scale"_a = 1.0f, "dloss"_a = 0.0f,
        "dtype"_a = "fp32");
}

void bind_reductions(py::module_& m) {
    def(
        m, "accumulate_sum",
        [](const Floats& inp, float out, float scale) {
            DeviceArray d_inp = input(inp, f32), d_out({1}, f32);
            d_out.upload(&out);
            without_gil([&] { accumulate_sum({.out = d_out, .inp = d_inp, .scale = scale}); });
            return d_out.download();
        },
        "out (1) += scale * sum(inp); `out` is the value before.", "inp"_a, py::kw_only(), "out"_a = 0.0f,
        "scale"_a = 1.0f);

    def(
        m, "statistics",
        [](const Floats& inp, const std::optional<Floats>& minus, int64_t first_column, int64_t columns,
           const std::string& dtype) {
            DeviceArray d_inp = input(inp, parse_dtype(dtype)), d_minus = input(minus, parse_dtype(dtype)),
                        out = output({kStatistics}, f32);
            without_gil([&] {
                statistics(
                    {.out = out, .inp = d_inp, .minus = d_minus, .first_column = first_column, .columns = columns});
            });
            return out.download();
        },
        "[mean |x|, mean x, root mean square of x, max |x|] of x = inp - minus in columns [first_column, first_column "
        "+ "
        "columns); 0 columns: all from the first on.",
        "inp"_a, py::kw_only(), "minus"_a = py::none(), "first_column"_a = 0, "columns"_a = 0, "dtype"_a = "fp32");

    def(
        m, "global_norm",
        [](const std::vector<Floats>& tensors) {
            std::vector<DeviceArray> arrays;
            std::vector<Tensor> views;
            for (const Floats& t : tensors) arrays.push_back(input(t, f32));
            for (const DeviceArray& a : arrays) views.push_back(a);
            DeviceArray out = output({1}, f32);
            without_gil([&] { global_norm(out, views); });
            return out.download();
        },
        "out (1) = sqrt(sum of all squared elements of all tensors).", "tensors"_a);

    def(
        m, "cast",
        [](const Floats& src, const std::string& src_dtype, const std::string& dst_dtype) {
            DeviceArray d_src = input(src, parse_dtype(src_dtype)), dst = output(shape_of(src), parse_dtype(dst_dtype));
            without_gil([&] { cast(dst, d_src); });
            return dst.download();
        },
        "dst = src in dst_dtype, rounded to nearest even; src is first rounded to src_dtype.", "src"_a, py::kw_only(),
        "src_dtype"_a = "fp32", "dst_dtype"_a = "bf16");
}

// The device side of one entry of `parameters`.
struct UpdateArrays {
    DeviceArray param, master, grad, m, v;
    UpdateArrays(const py::dict& entry, DType dtype)
        : param(input(array(entry, "param"), dtype)),
          master(optional(entry, "master")),
          grad(input(array(entry, "grad"), f32)),
          m(input(array(entry, "m"), f32)),
          v(optional(entry, "v")) {}

    static Floats array(const py::dict& entry, const char* key) {
        if (!entry.contains(key)) fail_usage("parameters: an entry has no '", key, "': each has param, grad and m");
        return real_numbers(entry[key]);
    }
    static DeviceArray optional(const py::dict& entry, const char* key) {
        return entry.contains(key) ? input(real_numbers(entry[key]), f32) : DeviceArray();
    }
    static float number(const py::dict& entry, const char* key) {
        return entry.contains(key) ? entry[key].cast<float>() : 0.0f;
    }

    ParameterUpdate update(const py::dict& entry) const {
        return {.param = param,
                .master = master,
                .grad = grad,
                .m = m,
                .v = v,
                .lr = number(entry, "lr"),
                .decay = number(entry, "decay"),
                .eps = number(entry, "eps"),
                .stream = entry.contains("stream") ? entry["stream"].cast<uint32_t>() : 0};
    }
    py::dict download(const py::dict& entry) const {
        py::dict result("param"_a = param.download(), "m"_a = m.download());
        if (entry.contains("master")) result["master"] = master.download();
        if (entry.contains("v")) result["v"] = v.download();
        return result;
    }
};

template <class Step>
py::list run_optimizer(const std::vector<py::dict>& parameters, int64_t step, const std::optional<float>& grad_norm,
                       float grad_clip, bool stochastic_rounding, uint64_t seed, const std::string& dtype,
                       Step&& optimizer) {
    std::vector<UpdateArrays> arrays;
    std::vector<ParameterUpdate> updates;
    for (const py::dict& entry : parameters) arrays.emplace_back(entry, parse_dtype(dtype));
    for (size_t i = 0; i < arrays.size(); ++i) updates.push_back(arrays[i].update(parameters[i]));
    DeviceArray norm = grad_norm ? DeviceArray({1}, f32) : DeviceArray();
    if (grad_norm) norm.upload(&*grad_norm);
    const OptimizerStep args{.parameters = updates,
                             .grad_norm = norm,
                             .grad_clip = grad_clip,
                             .step = step,
                             .stochastic_rounding = stochastic_rounding,
                             .seed = seed};
    without_gil([&] { optimizer(args); });
    py::list results;
    for (size_t i = 0; i < arrays.size(); ++i) results.append(arrays[i].download(parameters[i]));
    return results;
}

void bind_optimizers(py::module_& m) {
    def(
        m, "adamw_step",
        [](const std::vector<py::dict>& parameters, int64_t step, float beta1, float beta2,
           std::optional<float> grad_norm, float grad_clip, bool stochastic_rounding, uint64_t seed,
           const std::string& dtype) {
            return run_optimizer(parameters, step, grad_norm, grad_clip, stochastic_rounding, seed, dtype,
                                 [=](const OptimizerStep& args) { adamw_step(args, beta1, beta2); });
        },
        "One AdamW step over dicts of arrays {param, grad, m, v, master?} and numbers {lr, decay, eps, stream}. "
        "Returns a dict of the updated arrays for each.",
        "parameters"_a, py::kw_only(), "step"_a, "beta1"_a, "beta2"_a, "grad_norm"_a = py::none(), "grad_clip"_a = 0.0f,
        "stochastic_rounding"_a = false, "seed"_a = 0, "dtype"_a = "fp32");

    def(
        m, "sgd_step",
        [](const std::vector<py::dict>& parameters, int64_t step, float momentum, std::optional<float> grad_norm,
           float grad_clip, bool stochastic_rounding, uint64_t seed, const std::string& dtype) {
            return run_optimizer(parameters, step, grad_norm, grad_clip, stochastic_rounding, seed, dtype,
                                 [=](const OptimizerStep& args) { sgd_step(args, momentum); });
        },
        "One SGD step over dicts of arrays {param, grad, m, master?} and numbers {lr, decay, stream}. Returns a dict "
        "of the updated arrays for each.",
        "parameters"_a, py::kw_only(), "step"_a, "momentum"_a, "grad_norm"_a = py::none(), "grad_clip"_a = 0.0f,
        "stochastic_rounding"_a = false, "seed"_a = 0, "dtype"_a = "fp32");
}

}  // namespace

void bind_ops(py::module_& m) {
    bind_embedding(m);
    bind_layernorm(m);
    bind_matmul(m);
    bind_attention(m);
    bind_gelu_and_classifier(m);
    bind_reductions(m);
    bind_optimizers(m);
}

}  // namespace llmc
