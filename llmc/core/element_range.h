// A range of elements of a larger array.
#pragma once
#include <cstdint>

namespace llmc {

struct ElementRange {
    int64_t begin = 0, count = 0;
    int64_t end() const { return begin + count; }
};

}  // namespace llmc
