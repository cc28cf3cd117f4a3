// The backward pass of GPT-2, from the gradient of ln_f's output (in acts_.dbranch after loss_and_head_backward) to the
// embeddings. acts_.dresidual is the gradient of the residual stream; acts_.dbranch, acts_.dwide and acts_.dattn are
// gradients within a branch.
#include "llmc/gpt2/gpt2.h"
#include "llmc/ops/profile.h"

namespace llmc {
namespace {

// dinp = the layer norm's input gradient.
LayerNormBackward layernorm(const LayerNormParameters& p, const LayerNormActivations& a, Tensor dinp, Tensor dout,
                            Tensor inp) {
    return {.dinp = dinp,
            .dweight = p.weight->grad,
            .dbias = p.bias->grad,
            .dout = dout,
            .inp = inp,
            .weight = p.weight->value,
            .mean = a.mean,
            .rstd = a.rstd,
            .weight_scale = p.weight->rule.multiplier,
            .dweight_scale = p.weight->rule.dweight_multiplier,
            .dbias_scale = p.bias->rule.dweight_multiplier};
}

// dx = dskip * dx + dsplit * (the layer norm's input gradient), in place: at the point where a branch starts.
LayerNormBackward layernorm_to_residual(const LayerNormParameters& p, const LayerNormActivations& a, Tensor dx,
                                        Tensor dout, Tensor inp, const Residual& scale) {
    LayerNormBackward args = layernorm(p, a, dx, dout, inp);
    args.dskip = dx;
    args.skip_scale = scale.dskip;
    args.dinp_scale = scale.dsplit;
    return args;
}

MatmulBackward linear(const LinearParameters& p, Tensor dinp, Tensor dout, Tensor inp, bool overwrite) {
    return {.dinp = dinp,
            .dweight = p.weight->grad,
            .dbias = p.bias->grad,
            .dout = dout,
            .inp = inp,
            .weight = p.weight->value,
            .dinp_scale = p.weight->rule.dinp_multiplier,
            .dweight_scale = p.weight->rule.dweight_multiplier,
            .dbias_scale = p.bias->rule.dweight_multiplier,
            .overwrite_dweight = overwrite};
}

MatmulBackward linear_to_residual(const LinearParameters& p, Tensor dinp, Tensor dout, Tensor inp, bool overwrite,
                                  const Residual& scale) {
    MatmulBackward args = linear(p, dinp, dout, inp, overwrite);
    args.dinp_scale *= scale.dbranch;
    args.dweight_scale *= scale.dbranch;
    args.dbias_scale *= scale.dbranch;
    return args;
}

}  // namespace

void GPT2::backward() {
    backward_blocks(shape.depth, 0);
    backward_embedding();
}

void GPT2::backward_blocks(int end, int begin) {
    if (begin < end && end == shape.depth)
        call(layernorm_backward, layernorm(parameters.ln_f, rows(acts_.ln_f), rows(acts_.dresidual),
                                           rows(acts_.dbranch), rows(block_input(shape.depth))));
    for (int l = end - 1; l >= begin; --l) {
        recompute(l, rows(block_input(l)));
        block_backward(l, rows(block_input(l)));
    }
}

void GPT2::backward_embedding() {
    call(embedding_backward, {.dwte = parameters.wte->grad,
                              .dwpe = parameters.wpe->grad,
                              .dout = rows(acts_.dresidual).reshape({B_, T_, shape.width}),
                              .tokens = acts_.tokens.reshape({B_, T_}),
                              .dwte_scale = rules.scales().wte_grad,
                              .dwpe_scale = rules.scales().wpe_grad});
}

// Computes again what the forward pass of block l did not keep.
void GPT2::recompute(int l, Tensor x) {
    const BlockActivations& a = acts_.blocks[size_t(l)];
    if (options_.recompute == Recompute::block) block_forward(l, x, Pass::again);
    if (options_.recompute == Recompute::gelu)
        call(gelu_forward, {.out = rows(a.fc_gelu), .inp = rows(a.fc), .gelu_scale = rules.scales().gelu});
}

void GPT2::block_backward(int l, Tensor x) {
    const BlockParameters& p = parameters.blocks[size_t(l)];
    const BlockActivations& a = acts_.blocks[size_t(l)];
    const Scales& scales = rules.scales();
    const int64_t C = shape.width;
    const Tensor dx = rows(acts_.dresidual), dbranch = rows(acts_.dbranch), dwide = rows(acts_.dwide),
                 dattn = rows(acts_.dattn);
    const Residual &attn_scale = scales.residual[size_t(2 * l)], &mlp_scale = scales.residual[size_t(2 * l + 1)];

    MatmulBackward mlp_proj = linear_to_residual(p.mlp_c_proj, dwide, dx, rows(a.fc_gelu), overwrite_, mlp_scale);
    mlp_proj.pre_gelu = rows(a.fc);
    mlp_proj.gelu_scale = scales.gelu;
    call(matmul_backward, mlp_proj);
    call(matmul_backward, linear(p.mlp_c_fc, dbranch, dwide, rows(a.ln_2.out), overwrite_));
    call(layernorm_backward,
         layernorm_to_residual(p.ln_2, rows(a.ln_2), dx, dbranch, rows(a.residual_attn), mlp_scale));

    call(matmul_backward, linear_to_residual(p.attn_c_proj, dattn, dx, rows(a.attn), overwrite_, attn_scale));
    const Tensor dqkv = acts_.dwide.reshape({int64_t{B_} * T_, 3 * C});
    call(attention_backward, {.dqkv = dqkv.reshape({B_, T_, 3 * C}),
                              .dout = dattn.reshape({B_, T_, C}),
                              .out = a.attn.reshape({B_, T_, C}),
                              .lse = a.lse.reshape({B_, shape.heads, T_}),
                              .qkv = a.qkv.reshape({B_, T_, 3 * C}),
                              .logit_scale = scales.attention,
                              .out_scale = scales.attention_out});
    call(matmul_backward, linear(p.attn_c_attn, dbranch, dqkv, rows(a.ln_1.out), overwrite_));
    call(layernorm_backward, layernorm_to_residual(p.ln_1, rows(a.ln_1), dx, dbranch, x, attn_scale));
}

}  // namespace llmc
