// The only source of randomness: Philox4x32-10, a counter-based generator. A value depends only on (seed, purpose,
// stream, index), so it does not change with the number of threads or ranks, or after a resume. train_gpt2.py draws the
// same numbers. Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace llmc {

// The purpose of a draw is a part of its counter, so different purposes never use the same numbers. The values are part
// of the checkpoint format: a resumed run depends on them.
enum class Purpose : uint32_t { init = 1, shard_order = 2, window_order = 3, rounding = 4, sampling = 5 };

using Philox = std::array<uint32_t, 4>;

constexpr Philox philox(uint64_t seed, Philox counter) {
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        uint64_t p0 = uint64_t{0xD2511F53u} * counter[0], p1 = uint64_t{0xCD9E8D57u} * counter[2];
        counter = {uint32_t(p1 >> 32) ^ counter[1] ^ k0, uint32_t(p1), uint32_t(p0 >> 32) ^ counter[3] ^ k1,
                   uint32_t(p0)};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return counter;
}

// The counter of every draw: (index low, index high, purpose, stream).
constexpr Philox draw(uint64_t seed, Purpose purpose, uint32_t stream, uint64_t index) {
    return philox(seed, {uint32_t(index), uint32_t(index >> 32), uint32_t(purpose), stream});
}

// FNV-1a, 32 bits: the stream of a named tensor, so that its values do not depend on which other tensors exist.
inline uint32_t stream_of(std::string_view name) {
    uint32_t hash = 2166136261u;
    for (unsigned char c : name) hash = (hash ^ c) * 16777619u;
    return hash;
}

// Uniform on (0, 1), never 0 and never 1.
inline double uniform(uint32_t bits) { return (double(bits) + 0.5) * 0x1p-32; }

// Four standard normals by Box-Muller, in double so that C++ and Python agree once rounded to float.
inline std::array<double, 4> normal4(const Philox& x) {
    std::array<double, 4> z;
    for (int i = 0; i < 4; i += 2) {
        double radius = std::sqrt(-2.0 * std::log(uniform(x[i]))), angle = 2.0 * M_PI * uniform(x[i + 1]);
        z[i] = radius * std::cos(angle);
        z[i + 1] = radius * std::sin(angle);
    }
    return z;
}

}  // namespace llmc
