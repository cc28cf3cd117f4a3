#include "llmc/emulator/tensor_core.h"

#include "llmc/emulator/counters.h"
#include "llmc/emulator/numerics.h"

namespace llmc::emulator {
namespace {

float half_of(uint32_t pair, int half) {
    return std::bit_cast<float>(half ? pair & 0xffff0000u : pair << 16);  // bf16: the upper half of an fp32
}

struct Product {
    float (&d)[4];
    const uint32_t (&a)[4];
    const uint32_t (&b)[2];
};

// With group = lane / 4 and t = lane % 4: a[r] holds A[group + 8 (r % 2)][2t + 8 (r / 2)] and the next column; b[r]
// holds B[2t + 8 r][group] and the next row; d[r] is D[group + 8 (r / 2)][2t + r % 2].
void multiply(void* const (&deposits)[32]) {
    count(Event::mma);
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const Product& p = *static_cast<Product*>(deposits[lane]);
        const int group = lane / 4, t = lane % 4;
        for (int r = 0; r < 4; ++r)
            for (int half = 0; half < 2; ++half)
                a[group + 8 * (r % 2)][2 * t + half + 8 * (r / 2)] = half_of(p.a[r], half);
        for (int r = 0; r < 2; ++r)
            for (int half = 0; half < 2; ++half) b[2 * t + half + 8 * r][group] = half_of(p.b[r], half);
    }
    if (hardware_numerics()) {
        for (int lane = 0; lane < 32; ++lane) {
            const Product& p = *static_cast<Product*>(deposits[lane]);
            for (int r = 0; r < 4; ++r) {
                const int i = lane / 4 + 8 * (r / 2), j = 2 * (lane % 4) + r % 2;
                p.d[r] = tensor_core_sum(p.d[r], a[i], &b[0][j], 16, 1, 8);
            }
        }
        return;
    }
    float d[16][8];
    for (int i = 0; i < 16; ++i) {
        float sum[8] = {};
        for (int k = 0; k < 16; ++k)
            for (int j = 0; j < 8; ++j) sum[j] += a[i][k] * b[k][j];
        std::memcpy(d[i], sum, sizeof sum);
    }
    for (int lane = 0; lane < 32; ++lane) {
        const Product& p = *static_cast<Product*>(deposits[lane]);
        for (int r = 0; r < 4; ++r) p.d[r] += d[lane / 4 + 8 * (r / 2)][2 * (lane % 4) + r % 2];
    }
}

struct Rows {
    uint32_t (&out)[4];
    uint16_t row[8];
};

template <bool kTransposed>
void distribute(void* const (&deposits)[32]) {
    for (int lane = 0; lane < 32; ++lane) {
        Rows& mine = *static_cast<Rows*>(deposits[lane]);
        for (int m = 0; m < 4; ++m) {
            uint32_t pair = 0;
            for (int half = 0; half < 2; ++half) {
                const int group = lane / 4, element = 2 * (lane % 4) + half;
                const int row = kTransposed ? element : group, column = kTransposed ? group : element;
                pair |= uint32_t(static_cast<Rows*>(deposits[8 * m + row])->row[column]) << (16 * half);
            }
            mine.out[m] = pair;
        }
    }
}

}  // namespace

void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Location& where) {
    Product product{d, a, b};
    collective(&product, multiply, "mma.sync", where);
}

void distribute_rows(uint32_t (&r)[4], uint64_t low, uint64_t high, bool transposed, const Location& where) {
    Rows rows{r, {}};
    std::memcpy(rows.row, &low, sizeof low);
    std::memcpy(rows.row + 4, &high, sizeof high);
    if (transposed)
        collective(&rows, distribute<true>, "ldmatrix.trans", where);
    else
        collective(&rows, distribute<false>, "ldmatrix", where);
}

}  // namespace llmc::emulator
