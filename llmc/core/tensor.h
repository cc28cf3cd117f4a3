// A view of a dense row-major array on the device: pointer, element type, shape. It owns nothing.
#pragma once
#include <array>
#include <bit>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "llmc/core/names.h"

namespace llmc {

enum class DType : uint8_t { f32, bf16, i32 };

// The types a model can have, by the names of --dtype.
template <>
struct Names<DType> {
    static constexpr std::pair<const char*, DType> list[] = {{"fp32", DType::f32}, {"bf16", DType::bf16}};
};

constexpr size_t size_of(DType dtype) { return dtype == DType::bf16 ? 2 : 4; }
inline const char* name_of(DType dtype) {
    return dtype == DType::f32 ? "fp32" : dtype == DType::bf16 ? "bf16" : "int32";
}

// bfloat16: the upper 16 bits of an IEEE float32.
struct bf16 {
    uint16_t bits;
};

constexpr float to_float(float x) { return x; }
constexpr float to_float(bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

// Rounds to nearest, ties to even. A NaN stays a NaN: rounding must not turn it into infinity.
constexpr bf16 to_bf16(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x), rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    // without a branch, so that compilers vectorise it
    return {uint16_t(((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : rounded) >> 16)};
}

// Rounds up with probability equal to the discarded fraction; `random16` is uniform on [0, 65536).
constexpr bf16 to_bf16_stochastic(float x, uint32_t random16) {
    uint32_t bits = std::bit_cast<uint32_t>(x);
    if ((bits & 0x7f800000u) == 0x7f800000u) return to_bf16(x);  // infinity and NaN are not rounded
    return {uint16_t((bits + (random16 & 0xffffu)) >> 16)};
}

template <class T>
inline T from_float(float x);
template <>
inline float from_float<float>(float x) {
    return x;
}
template <>
inline bf16 from_float<bf16>(float x) {
    return to_bf16(x);
}

struct Tensor {
    void* data = nullptr;
    DType dtype = DType::f32;
    int rank = 0;
    std::array<int64_t, 4> shape{};

    Tensor() = default;
    Tensor(void* data, DType dtype, std::initializer_list<int64_t> dims) : data(data), dtype(dtype) {
        for (int64_t d : dims) shape[rank++] = d;
    }

    explicit operator bool() const { return data != nullptr; }
    int64_t numel() const {
        int64_t n = 1;
        for (int i = 0; i < rank; ++i) n *= shape[i];
        return rank == 0 ? 0 : n;
    }
    size_t bytes() const { return numel() * size_of(dtype); }
    int64_t last() const { return rank ? shape[size_t(rank - 1)] : 0; }  // extent of the contiguous dimension
    int64_t rows() const {                                               // product of all the others
        int64_t n = rank ? 1 : 0;
        for (int i = 0; i + 1 < rank; ++i) n *= shape[size_t(i)];
        return n;
    }
    template <class T>
    T* as() const {
        return static_cast<T*>(data);
    }

    // Rows [begin, begin + count) of the tensor seen as (rows(), last()).
    Tensor row_slice(int64_t begin, int64_t count) const {
        return {static_cast<char*>(data) + begin * last() * int64_t(size_of(dtype)), dtype, {count, last()}};
    }
    // Elements [begin, begin + count) in memory order.
    Tensor slice(int64_t begin, int64_t count) const {
        return {static_cast<char*>(data) + begin * int64_t(size_of(dtype)), dtype, {count}};
    }
    // The same memory with another shape, which must not have more elements.
    Tensor reshape(std::initializer_list<int64_t> dims) const { return {data, dtype, dims}; }
    std::string shape_string() const {
        std::string s = "(";
        for (int i = 0; i < rank; ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
        return s + ")";
    }
};

}  // namespace llmc
