#include <algorithm>

#include "llmc/comm/comm.h"

namespace llmc {

std::vector<ElementRange> parts_of(int64_t elements, int ranks) {
    constexpr int64_t kUnit = 16;  // aligned for vectors of both float types
    const int64_t units = (elements + kUnit - 1) / kUnit;
    std::vector<ElementRange> parts;
    for (int64_t r = 0; r < ranks; ++r) {
        const int64_t begin = std::min(elements, units * r / ranks * kUnit),
                      end = std::min(elements, units * (r + 1) / ranks * kUnit);
        parts.push_back({begin, end - begin});
    }
    return parts;
}

}  // namespace llmc
