// The memory that an op needs while it runs.
#pragma once
#include <cstdint>

namespace llmc::cpu {

// The use of a buffer. Buffers of different use exist at the same time.
enum class Scratch { inp, weight, dout, product, bias, partial, attention, count };

// At least `count` floats, aligned to a page, of the calling thread, contents undefined. The memory is kept for the
// next call, because touching fresh pages takes longer than most ops.
float* scratch(Scratch use, int64_t count);

}  // namespace llmc::cpu
