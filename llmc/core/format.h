// Numbers as text, and words that depend on one.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
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

// "nan" in every text: printf shows the sign, which the operations of the processor choose.
inline double without_sign_of_nan(double value) { return std::isnan(value) ? std::fabs(value) : value; }

// 12.3 MiB, 5.82 GiB.
inline std::string bytes_text(size_t bytes) {
    char text[32];
    const double MiB = double(bytes) / (1 << 20);
    if (MiB < 1024)
        std::snprintf(text, sizeof text, "%.1f MiB", MiB);
    else
        std::snprintf(text, sizeof text, "%.2f GiB", MiB / 1024);
    return text;
}

}  // namespace llmc
