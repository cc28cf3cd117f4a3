// Epilogues: what is computed from a product before it is stored. An epilogue takes kVec consecutive columns of one
// row, in fp32, of which the first `count` exist.
#pragma once
#include "llmc/cuda/gelu.h"
#include "llmc/cuda/vec.h"

namespace llmc::cuda {

// out = scale * product + bias_scale * bias
template <class T>
struct Linear {
    T* out;
    const T* bias;  // (N), or null
    int N;
    float scale, bias_scale;
    bool aligned;

    GPU void apply_bias(float (&v)[kVec], int column, int count) const {
        float b[kVec] = {};
        if (bias) load_upto(b, bias + column, count, aligned);
#pragma unroll
        for (int k = 0; k < kVec; ++k) v[k] = scale * v[k] + bias_scale * b[k];
    }
    GPU void operator()(int64_t row, int column, float (&v)[kVec], int count) const {
        apply_bias(v, column, count);
        store_upto(out + row * N + column, v, count, aligned);
    }
};

// pre_gelu = linear; out = gelu(linear)
template <class T>
struct LinearGelu {
    Linear<T> linear;
    T* pre_gelu;
    float gelu_scale;

    GPU void operator()(int64_t row, int column, float (&v)[kVec], int count) const {
        const int64_t at = row * linear.N + column;
        linear.apply_bias(v, column, count);
        round_to<T>(v);  // the GELU of the stored value, so that it can be recomputed from that
        store_upto(pre_gelu + at, v, count, linear.aligned);
#pragma unroll
        for (float& x : v) x = gelu<T>(gelu_scale * x) / gelu_scale;
        store_upto(linear.out + at, v, count, linear.aligned);
    }
};

// out = skip_scale * residual + linear
template <class T>
struct LinearResidual {
    Linear<T> linear;
    const T* residual;
    float skip_scale;

    GPU void operator()(int64_t row, int column, float (&v)[kVec], int count) const {
        const int64_t at = row * linear.N + column;
        float r[kVec];
        load_upto(r, residual + at, count, linear.aligned);
        linear.apply_bias(v, column, count);
#pragma unroll
        for (int k = 0; k < kVec; ++k) v[k] += skip_scale * r[k];
        store_upto(linear.out + at, v, count, linear.aligned);
    }
};

// dinp = scale * product * gelu'(pre_gelu)
template <class T>
struct GeluGradient {
    T* dinp;
    const T* pre_gelu;
    int N;
    float scale, gelu_scale;
    bool aligned;

    GPU void operator()(int64_t row, int column, float (&v)[kVec], int count) const {
        const int64_t at = row * N + column;
        float x[kVec];
        load_upto(x, pre_gelu + at, count, aligned);
#pragma unroll
        for (int k = 0; k < kVec; ++k) v[k] *= scale * gelu_derivative<T>(gelu_scale * x[k]);
        store_upto(dinp + at, v, count, aligned);
    }
};

// dweight += scale * product, in fp32; without `add`, dweight = scale * product
struct Accumulate {
    float* dweight;
    int N;
    float scale;
    bool aligned, add;

    GPU void operator()(int64_t row, int column, float (&v)[kVec], int count) const {
        float* target = dweight + row * N + column;
        float old[kVec] = {};
        if (add) load_upto(old, target, count, aligned);
#pragma unroll
        for (int k = 0; k < kVec; ++k) v[k] = old[k] + scale * v[k];
        store_upto(target, v, count, aligned);
    }
};

}  // namespace llmc::cuda
