// Numbers as text, and words that depend on one.
#pragma once
#include <cstdint>
#include <string>

namespace llmc {

// 1234567 -> "1,234,567"
inline std::string with_commas(int64_t n) {
    std::string digits = std::to_string(n);
    for (int i = int(digits.size()) - 3; i > (n < 0 ? 1 : 0); i -= 3) digits.insert(size_t(i), ",");
    return digits;
}

// 1 shard, 2 shards, 1,200 shards
inline std::string plural(int64_t count, const std::string& noun) {
    return with_commas(count) + " " + noun + (count == 1 ? "" : "s");
}

}  // namespace llmc
