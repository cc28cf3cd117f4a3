// The memory that an op needs while it runs.
#pragma once
#include <cstdint>

namespace llmc::cpu {

// What a buffer is for: buffers of different use exist side by side.
enum class Scratch { inp, weight, dout, product, bias, partial, attention, count };

// At least `count` floats, aligned to a page, private to the calling thread, contents undefined. The memory is kept for
// the next call: fresh pages cost more than most ops do.
float* scratch(Scratch use, int64_t count);

}  // namespace llmc::cpu
