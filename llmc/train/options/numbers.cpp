#include "llmc/train/options/numbers.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace llmc {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Reads digits and the underscores between them from text[i] on; empty if there is no digit or an underscore elsewhere.
std::optional<std::string> read_digits(const std::string& text, size_t& i) {
    std::string digits;
    for (; i < text.size() && (is_digit(text[i]) || text[i] == '_'); ++i) {
        if (is_digit(text[i])) {
            digits += text[i];
            continue;
        }
        const bool between = i > 0 && is_digit(text[i - 1]) && i + 1 < text.size() && is_digit(text[i + 1]);
        if (!between) return std::nullopt;
    }
    return digits;
}

}  // namespace

std::optional<Decimal> Decimal::read(const std::string& text) {
    Decimal number;
    size_t i = !text.empty() && (text[0] == '+' || text[0] == '-');
    number.negative = i && text[0] == '-';
    const std::optional<std::string> before = read_digits(text, i);
    std::optional<std::string> after = "";
    if (i < text.size() && text[i] == '.') after = read_digits(text, ++i);
    if (!before || !after || (before->empty() && after->empty())) return std::nullopt;
    if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
        const bool sign = ++i < text.size() && (text[i] == '+' || text[i] == '-');
        const bool negative = sign && text[i] == '-';
        if (sign) ++i;
        const std::optional<std::string> exponent = read_digits(text, i);
        if (!exponent || exponent->empty()) return std::nullopt;
        // an exponent of more digits gives 0 or infinity as well
        number.exponent = std::strtol(
            exponent->substr(std::min(exponent->find_first_not_of('0'), exponent->size()), 9).c_str(), nullptr, 10);
        if (negative) number.exponent = -number.exponent;
    }
    if (i != text.size()) return std::nullopt;
    number.exponent -= long(after->size());
    number.digits = *before + *after;
    number.digits.erase(0, std::min(number.digits.find_first_not_of('0'), number.digits.size()));
    return number;
}

bool Decimal::whole() const {
    const size_t zeros = digits.size() - (digits.find_last_not_of('0') + 1);
    return digits.empty() || exponent >= -long(zeros);
}

std::optional<int64_t> Decimal::to_int64() const {
    if (digits.empty()) return 0;
    if (long(digits.size()) + exponent > 19) return std::nullopt;
    std::string text = negative ? "-" + digits : digits;
    if (exponent < 0)
        text.resize(text.size() - size_t(-exponent));
    else
        text.append(size_t(exponent), '0');
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

double Decimal::to_double() const {
    const std::string text = (negative ? "-" : "") + (digits.empty() ? "0" : digits) + "e" + std::to_string(exponent);
    return std::strtod(text.c_str(), nullptr);
}

std::string shortest_digits(double value) {
    if (!std::isfinite(value)) return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, value, std::chars_format::scientific).ptr;
    std::string all(text, end);  // [-]d[.ddd]e+XX
    const size_t e = all.find('e');
    const long exponent = std::strtol(all.c_str() + e + 1, nullptr, 10);
    if (exponent < -4 || exponent >= 16) return all;
    const std::string sign = all[0] == '-' ? "-" : "";
    std::string digits;
    for (char c : all.substr(sign.size(), e - sign.size()))
        if (c != '.') digits += c;
    if (exponent < 0) return sign + "0." + std::string(size_t(-exponent - 1), '0') + digits;
    digits.resize(std::max(digits.size(), size_t(exponent) + 2), '0');
    return sign + digits.insert(size_t(exponent) + 1, ".");
}

std::string short_number(double value) {
    if (value == std::floor(value) && std::abs(value) < 1e15) return std::to_string(int64_t(value));
    return shortest_digits(value);
}

}  // namespace llmc
