// A JSON file that others wrote. Both programs read the same: UTF-8, with or without a byte order mark, no NaN.
#pragma once
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

namespace llmc {

// Discarded (is_discarded(), no object) if the file cannot be read or is not JSON.
inline nlohmann::json read_json(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    // the parser takes a zero byte for the end of the text
    if (text.find('\0') != std::string::npos) return nlohmann::json::value_t::discarded;
    return nlohmann::json::parse(text, nullptr, false);
}

}  // namespace llmc
