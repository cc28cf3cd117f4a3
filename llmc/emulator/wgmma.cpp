// The products of wgmma: operands in shared memory are read once for all 128 threads of a warpgroup.
#include <bit>
#include <cstring>

#include "llmc/emulator/counters.h"
#include "llmc/emulator/hopper.h"
#include "llmc/emulator/sanitizers.h"

namespace llmc::emulator {
namespace {

constexpr int kRows = 64, kDepth = 16;

// Byte offset in shared memory of element (mn, k) of an operand before the swizzle. PTX manual, wgmma, "Canonical
// layouts".
struct Operand {
    uint32_t start, leading, stride;
    bool along_mn;

    Operand(uint64_t descriptor, bool by_mn)
        : start((descriptor & 0x3fff) << 4),
          leading((descriptor >> 16 & 0x3fff) << 4),
          stride((descriptor >> 32 & 0x3fff) << 4),
          along_mn(by_mn) {
        if (descriptor >> 62 != 1) fail("wgmma: the descriptor does not say 128-byte swizzle");
    }
    uint32_t offset(int mn, int k) const {
        return along_mn ? start + mn / 64 * leading + k / 8 * stride + k % 8 * 128 + mn % 64 * 2
                        : start + mn / 8 * stride + mn % 8 * 128 + k * 2;
    }
};

// Element (mn, k) to out[mn * mn_step + k * k_step]. Eight elements, 16 bytes, stay together.
void read(Block& block, const Operand& operand, int count, float* out, int mn_step, int k_step) {
    const std::vector<unsigned char>& view = async_view(block);
    const int mn_chunk = operand.along_mn ? 8 : 1, k_chunk = operand.along_mn ? 1 : 8;
    const int step = operand.along_mn ? mn_step : k_step;
    for (int mn = 0; mn < count; mn += mn_chunk)
        for (int k = 0; k < kDepth; k += k_chunk) {
            const uint32_t offset = swizzled(operand.offset(mn, k));
            bf16 chunk[8];
            if (offset + sizeof chunk > block.shared_bytes) fail("wgmma: an operand is outside shared memory");
            record_read(block.shared + offset, sizeof chunk);
            const Quiet quiet;
            std::memcpy(chunk, block.shared + offset, sizeof chunk);
            if (std::memcmp(chunk, view.data() + offset, sizeof chunk))
                fail(
                    "wgmma: an operand in shared memory was written by ordinary stores, and no fence_proxy_async "
                    "followed");
            for (int i = 0; i < 8; ++i) out[mn * mn_step + k * k_step + i * step] = to_float(chunk[i]);
        }
}

// Register r of lane l of warp w: A[16 w + l / 4 + 8 (r % 2)][2 (l % 4) + 8 (r / 2), +1].
void read_registers(const WarpgroupProduct* const (&of_thread)[128], float (&a)[kRows][kDepth]) {
    for (int t = 0; t < 128; ++t)
        for (int r = 0; r < 4; ++r) {
            const uint32_t pair = of_thread[t]->a_registers[r];
            if (pair != of_thread[t]->a_issued[r])
                fail("wgmma: registers of A were written before a wait for the product");
            float* row = a[t / 32 * 16 + t % 32 / 4 + 8 * (r % 2)] + 2 * (t % 4) + 8 * (r / 2);
            row[0] = std::bit_cast<float>(pair << 16), row[1] = std::bit_cast<float>(pair & 0xffff0000u);
        }
}

// The operand is read as 8 x 8 matrices: eight rows of 16 bytes at a time.
void count_operand(const Block& block, const Operand& operand, int count) {
    if (!kCounts) return;
    std::vector<const void*> rows;
    for (int mn = 0; mn < count; mn += 8)
        for (int k = 0; k < kDepth; k += 8)
            for (int i = 0; i < 8; ++i) {
                const uint32_t row = operand.along_mn ? operand.offset(mn, k + i) : operand.offset(mn + i, k);
                rows.push_back(block.shared + swizzled(row));
            }
    count_shared_rows(rows.data(), int(rows.size()), false, Access::wgmma);
}

// d[4 j + 2 half + e] of warp w, lane l: D[16 w + 8 half + l / 4][8 j + 2 (l % 4) + e].
template <int kColumns>
void multiply(const float (&a)[kRows][kDepth], const float (&b)[kDepth][256],
              const WarpgroupProduct* const (&of_thread)[128]) {
    for (int m = 0; m < kRows; ++m) {
        float sum[kColumns] = {};
        for (int k = 0; k < kDepth; ++k) {
            const float x = a[m][k];
            for (int n = 0; n < kColumns; ++n) sum[n] += x * b[k][n];
        }
        const WarpgroupProduct* const* owner = of_thread + m / 16 * 32 + m % 8 * 4;
        for (int t = 0; t < 4; ++t) {
            float* d = owner[t]->d + m % 16 / 8 * 2;
            for (int j = 0; j < kColumns / 8; ++j)
                for (int e = 0; e < 2; ++e) {
                    float& x = d[4 * j + e];
                    const int n = 8 * j + 2 * t + e;
                    if (!owner[t]->add) x = 0;
                    x = hardware_numerics() ? tensor_core_sum(x, a[m], &b[0][n], kDepth, 1, 256) : x + sum[n];
                }
        }
    }
}

}  // namespace

void multiply_warpgroup(Block& block, const WarpgroupProduct* const (&of_thread)[128]) {
    const WarpgroupProduct& first = *of_thread[0];
    for (const WarpgroupProduct* p : of_thread)
        if (p->a != first.a || p->b != first.b || p->columns != first.columns || p->add != first.add ||
            !p->a_registers != !first.a_registers)
            fail("wgmma: the threads of a warpgroup give different operands");
    float a[kRows][kDepth], b[kDepth][256];
    const Operand of_b(first.b, first.b_by_rows);
    if (first.a_registers) {
        read_registers(of_thread, a);
    } else {
        const Operand of_a(first.a, first.a_by_columns);
        read(block, of_a, kRows, &a[0][0], kDepth, 1);
        count_operand(block, of_a, kRows);
    }
    read(block, of_b, first.columns, &b[0][0], 1, 256);
    count(Event::wgmma, uint64_t(kRows * first.columns * kDepth));
    count_operand(block, of_b, first.columns);
    if (first.columns == 256)
        multiply<256>(a, b, of_thread);
    else if (first.columns == 128)
        multiply<128>(a, b, of_thread);
    else if (first.columns == 64)
        multiply<64>(a, b, of_thread);
    else
        multiply<8>(a, b, of_thread);
}

}  // namespace llmc::emulator
