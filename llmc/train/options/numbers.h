// Numbers as texts: on the command line, in messages, in TOML.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace llmc {

// [+-] digits, with a point and an exponent if there are any, underscores between digits: 1e6, 1_000, .5. No hexadecimal
// numbers, inf or nan. The same in python/llmc/numbers.py.
struct Decimal {
    bool negative = false;
    std::string digits;  // without leading zeros; "" is 0
    long exponent = 0;   // the value is digits * 10^exponent

    static std::optional<Decimal> read(const std::string& text);

    bool whole() const;
    // Of a whole number; empty if it does not fit.
    std::optional<int64_t> to_int64() const;
    double to_double() const;  // rounded to nearest; infinity if it is too large
};

// 4096.0, 0.5, 1e-08: the fewest digits that give the same number, as Python's repr. (nlohmann's dump has one digit
// more for one number in a thousand.)
std::string shortest_digits(double value);
// The same, and whole numbers without a point: 4096.
std::string short_number(double value);

}  // namespace llmc
