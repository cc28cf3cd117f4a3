// The forward pass of GPT-2, and the head with its loss. Shapes: gpt2.h; formulas: ops.h.
#include <algorithm>

#include "llmc/gpt2/gpt2.h"
#include "llmc/ops/profile.h"

namespace llmc {
namespace {

void layernorm(const LayerNormParameters& p, const LayerNormActivations& a, Tensor inp) {
    call(layernorm_forward, {.out = a.out,
                             .mean = a.mean,
                             .rstd = a.rstd,
                             .inp = inp,
                             .weight = p.weight->value,
                             .bias = p.bias->value,
                             .weight_scale = p.weight->rule.multiplier,
                             .bias_scale = p.bias->rule.multiplier});
}

MatmulForward linear(const LinearParameters& p, Tensor out, Tensor inp) {
    return {.out = out,
            .inp = inp,
            .weight = p.weight->value,
            .bias = p.bias->value,
            .scale = p.weight->rule.multiplier,
            .bias_scale = p.bias->rule.multiplier};
}

// out = skip * residual + branch * linear(inp): the branch's factor is part of the matmul's scale.
MatmulForward linear_to_residual(const LinearParameters& p, Tensor out, Tensor inp, Tensor residual,
                                 const Residual& scale) {
    MatmulForward args = linear(p, out, inp);
    args.residual = residual;
    args.scale *= scale.branch;
    args.bias_scale *= scale.branch;
    args.skip_scale = scale.skip;
    return args;
}

}  // namespace

void GPT2::forward(int64_t first) {
    first_ = first;
    const int T = T_ - int(first_);
    call(embedding_forward, {.out = rows(acts_.embedding).reshape({B_, T, shape.width}),
                             .tokens = acts_.tokens.slice(first_, row_count()).reshape({B_, T}),
                             .wte = parameters.wte->value,
                             .wpe = parameters.wpe->value.row_slice(first_, shape.max_seq_len - first_),
                             .scale = rules.scales().embedding});
    observe("embedding", rows(acts_.embedding));
    for (int l = 0; l < shape.depth; ++l) block_forward(l, rows(block_input(l)), Pass::forward);
    const LayerNormActivations ln_f = rows(acts_.ln_f);
    layernorm(parameters.ln_f, ln_f, rows(block_input(shape.depth)));
    observe("ln_f", ln_f.out);
}

void GPT2::block_forward(int l, Tensor x, Pass pass) {
    const BlockParameters& p = parameters.blocks[size_t(l)];
    const BlockActivations& a = acts_.blocks[size_t(l)];
    const Scales& scales = rules.scales();
    const int64_t C = shape.width;
    const LayerNormActivations ln_1 = rows(a.ln_1), ln_2 = rows(a.ln_2);
    const auto announce = [&](const char* name, Tensor value) {
        if (pass == Pass::forward) observe("h.", l, name, value);
    };

    layernorm(p.ln_1, ln_1, x);
    announce(".ln_1", ln_1.out);
    const Tensor qkv = qkv_of(l);
    call(matmul_forward, linear(p.attn_c_attn, rows(qkv), ln_1.out));
    announce(".attn.c_attn", rows(qkv));
    call(attention_forward, {.out = a.attn.reshape({B_, T_, C}),
                             .lse = a.lse.reshape({B_, shape.heads, T_}),
                             .qkv = qkv.reshape({B_, T_, 3 * C}),
                             .logit_scale = scales.attention,
                             .out_scale = scales.attention_out,
                             .first_query = first_});
    announce(".attn", rows(a.attn));
    call(matmul_forward,
         linear_to_residual(p.attn_c_proj, rows(a.residual_attn), rows(a.attn), x, scales.residual[size_t(2 * l)]));
    announce(".resid_attn", rows(a.residual_attn));

    layernorm(p.ln_2, ln_2, rows(a.residual_attn));
    announce(".ln_2", ln_2.out);
    MatmulForward fc = linear(p.mlp_c_fc, rows(a.fc_gelu), ln_2.out);
    fc.pre_gelu = rows(a.fc);
    fc.gelu_scale = scales.gelu;
    call(matmul_forward, fc);
    announce(".mlp.c_fc", rows(a.fc));
    announce(".mlp.gelu", rows(a.fc_gelu));
    if (pass == Pass::again) return;
    call(matmul_forward, linear_to_residual(p.mlp_c_proj, rows(a.residual_mlp), rows(a.fc_gelu), rows(a.residual_attn),
                                            scales.residual[size_t(2 * l + 1)]));
    announce(".resid_mlp", rows(a.residual_mlp));
}

void GPT2::head_logits(int64_t begin, int64_t count, Tensor logits) {
    call(matmul_forward, {.out = logits,
                          .inp = acts_.ln_f.out.row_slice(begin, count),
                          .weight = parameters.lm_head->value,
                          .scale = rules.head().multiplier});
}

void GPT2::head(float loss_scale, bool backward) {
    const int64_t N = int64_t{B_} * T_, chunk = acts_.logits.shape[0];
    const Rule rule = rules.head();
    for (int64_t begin = 0; begin < N; begin += chunk) {
        const int64_t n = std::min(chunk, N - begin);
        const Tensor logits = acts_.logits.row_slice(0, n);
        head_logits(begin, n, logits);
        observe("logits", logits);
        call(classifier, {.losses = acts_.losses.slice(begin, n),
                          .logits = logits,
                          .targets = acts_.targets.slice(begin, n),
                          .vocab_size = shape.vocab_size,
                          .logit_scale = rules.scales().loss,
                          .dloss = backward ? loss_scale * rules.scales().loss_grad : 0});
        if (!backward) continue;
        // logits now contains their gradient; dbranch receives the gradient of ln_f's output
        call(matmul_backward, {.dinp = acts_.dbranch.row_slice(begin, n),
                               .dweight = parameters.lm_head->grad,
                               .dout = logits,
                               .inp = acts_.ln_f.out.row_slice(begin, n),
                               .weight = parameters.lm_head->value,
                               .dinp_scale = rule.dinp_multiplier,
                               .dweight_scale = rule.dweight_multiplier,
                               .overwrite_dweight = overwrite_ && begin == 0});
    }
    call(accumulate_sum, {.out = acts_.loss, .inp = acts_.losses.slice(0, N), .scale = loss_scale});
}

}  // namespace llmc
