// mma.sync and ldmatrix with the register layouts of the PTX manual ("Matrix fragments for mma.m16n8k16"), computed for
// the whole warp by the lane that arrives last. Sums are in fp32, k ascending; the order on a GPU is not specified.
#pragma once
#include "llmc/emulator/warp.h"

namespace llmc::emulator {

void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Location& where);
// Lane i gives the 16-byte row i % 8 of matrix i / 8, already read, in two halves (gcc does not show ThreadSanitizer
// the read of a structure that it passes on); r[m] is this lane's pair of elements of matrix m.
void distribute_rows(uint32_t (&r)[4], uint64_t low, uint64_t high, bool transposed, const Location& where);

}  // namespace llmc::emulator
