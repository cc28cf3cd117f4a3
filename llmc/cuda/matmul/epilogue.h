// Epilogues: what is computed from a product D (M, N) before it is stored. An epilogue is a function of one element, and
// it is called with pairs of neighbouring columns, as every layout of an accumulator has them. It says which matrices it
// reads and writes (Tensors), but accesses none: each kernel does so in the layout of its registers, with the accesses
// that are the widest there.
//
//   Element, kReads, kKeeps, kBias   the matrices' type; whether there are tensors.input, .kept, .bias
//   kInstructions                    an element, as fragments.h applies it to neighbours (kInstructionsOf)
//   operator()(v, bias, input, kept) -> what becomes of tensors.out
//     v       two elements of the product
//     bias    tensors.bias_scale times those of the bias, 0 without one
//     input   those of tensors.input, 0 without one
//     kept    receives what becomes of tensors.kept
#pragma once
#include "llmc/cuda/gelu.h"
#include "llmc/cuda/vec.h"

namespace llmc::cuda {

template <class T>
struct Tensors {
    T* out;                    // (M, N)
    T* kept = nullptr;         // (M, N)
    const T* input = nullptr;  // (M, N)
    const T* bias = nullptr;   // (N)
    float bias_scale = 0;
    int N;
    bool aligned;  // every row of all of them starts at a multiple of 16 bytes and has a multiple of 8 elements
};

// out = scale * product + bias_scale * bias
template <class T>
struct Linear {
    using Element = T;
    static constexpr bool kReads = false, kKeeps = false, kBias = true;
    static constexpr double kInstructions = 3.1;
    Tensors<T> tensors;
    float scale;

    GPU Pair<T> operator()(const float (&v)[2], const float (&bias)[2], Pair<T>, Pair<T>&) const {
        return pack_pair<T>(scale * v[0] + bias[0], scale * v[1] + bias[1]);
    }
};

// kept = linear, the pre-activation; out = gelu(kept)
template <class T>
struct LinearGelu {
    using Element = T;
    static constexpr bool kReads = false, kKeeps = true, kBias = true;
    static constexpr double kInstructions = 12.1;
    Tensors<T> tensors;
    float scale;
    GeluFactors gelu_factors;

    GPU Pair<T> operator()(const float (&v)[2], const float (&bias)[2], Pair<T>, Pair<T>& kept) const {
        // The GELU of the stored value, so that it can be recomputed from that.
        kept = pack_pair<T>(scale * v[0] + bias[0], scale * v[1] + bias[1]);
        return pack_pair<T>(gelu<T>(low_of(kept), gelu_factors), gelu<T>(high_of(kept), gelu_factors));
    }
};

// out = skip_scale * input + linear, the input a residual
template <class T>
struct LinearResidual {
    using Element = T;
    static constexpr bool kReads = true, kKeeps = false, kBias = true;
    static constexpr double kInstructions = 6.7;
    Tensors<T> tensors;
    float scale, skip_scale;

    GPU Pair<T> operator()(const float (&v)[2], const float (&bias)[2], Pair<T> input, Pair<T>&) const {
        return pack_pair<T>(scale * v[0] + bias[0] + skip_scale * low_of(input),
                            scale * v[1] + bias[1] + skip_scale * high_of(input));
    }
};

// out = scale * product * gelu'(input), the input a pre-activation
template <class T>
struct GeluGradient {
    using Element = T;
    static constexpr bool kReads = true, kKeeps = false, kBias = false;
    static constexpr double kInstructions = 15.1;
    Tensors<T> tensors;
    float scale;
    GeluFactors gelu_factors;

    GPU Pair<T> operator()(const float (&v)[2], const float (&)[2], Pair<T> input, Pair<T>&) const {
        return pack_pair<T>(v[0] * (scale * gelu_derivative<T>(low_of(input), gelu_factors)),
                            v[1] * (scale * gelu_derivative<T>(high_of(input), gelu_factors)));
    }
};

// out = input + scale * product, in fp32: a weight gradient that is added to (input = out), or begins (no input)
struct Accumulate {
    using Element = float;
    static constexpr bool kReads = true, kKeeps = false, kBias = false;
    static constexpr double kInstructions = 4.4;
    Tensors<float> tensors;
    float scale;

    GPU void add_to_out() { tensors.input = tensors.out; }
    GPU Pair<float> operator()(const float (&v)[2], const float (&)[2], Pair<float> input, Pair<float>&) const {
        return pack_pair<float>(low_of(input) + scale * v[0], high_of(input) + scale * v[1]);
    }
};

// In bf16, results that are not neighbours are exchanged.
template <class Epilogue, bool kNeighbours>
constexpr double kInstructionsOf = Epilogue::kInstructions +
                                   (sizeof(typename Epilogue::Element) == 2 && !kNeighbours ? 1.75 : 0);

// Applies an epilogue to two columns or more of a row, in fp32, of which the first `count` exist. kWhole: all do, and they
// are 16 bytes or more, aligned.
template <bool kWhole, class Epilogue, int kCount>
GPU void finish_row(const Epilogue& epilogue, int64_t row, int column, const float (&v)[kCount], int count) {
    using T = typename Epilogue::Element;
    const Tensors<T>& t = epilogue.tensors;
    const int64_t at = row * t.N + column;
    float bias[kCount] = {}, input[kCount] = {}, kept[kCount], out[kCount];
    const auto read = [&](float (&to)[kCount], const T* p) {
        if constexpr (kWhole)
            load(to, p);
        else
            load_some(to, p, count);
    };
    const auto write = [&](T* p, const float (&from)[kCount]) {
        if constexpr (kWhole)
            store(p, from);
        else
            store_some(p, from, count);
    };
    if (t.bias) read(bias, t.bias + column);
    if (Epilogue::kReads && t.input) read(input, t.input + at);
#pragma unroll
    for (int k = 0; k < kCount; k += 2) {
        const float pair[2] = {v[k], v[k + 1]}, b[2] = {t.bias_scale * bias[k], t.bias_scale * bias[k + 1]};
        Pair<T> keep{};
        const Pair<T> result = epilogue(pair, b, pack_pair<T>(input[k], input[k + 1]), keep);
        kept[k] = low_of(keep), kept[k + 1] = high_of(keep), out[k] = low_of(result), out[k + 1] = high_of(result);
    }
    if constexpr (Epilogue::kKeeps) write(t.kept + at, kept);
    write(t.out + at, out);
}
template <class Epilogue, int kCount>
GPU void finish_vector(const Epilogue& epilogue, int64_t row, int column, const float (&v)[kCount], int count) {
    if (epilogue.tensors.aligned && count >= kCount)
        finish_row<true>(epilogue, row, column, v, count);
    else
        finish_row<false>(epilogue, row, column, v, count);
}

}  // namespace llmc::cuda
