#include <array>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "llmc/core/error.h"
#include "llmc/core/json_file.h"
#include "llmc/data/tokenizer.h"

namespace llmc {
namespace {

namespace fs = std::filesystem;

constexpr int32_t kMagic = 20240328, kVersion = 2;  // version 1 does not contain the end of a document
constexpr const char* kEndOfText = "<|endoftext|>";

// GPT-2 writes a byte as a character: itself if it is printable, else 256, 257, ... in the order of the bytes.
// {character: byte}
std::unordered_map<uint32_t, char> bytes_of_characters() {
    std::unordered_map<uint32_t, char> out;
    uint32_t other = 256;
    for (uint32_t b = 0; b < 256; ++b) {
        const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
        out[printable ? b : other++] = char(b);
    }
    return out;
}

// The bytes of a token's text in vocab.json; none: it has a character that is no byte.
std::optional<std::string> bytes_of(const std::string& text) {
    static const std::unordered_map<uint32_t, char> bytes = bytes_of_characters();
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        uint32_t c = static_cast<unsigned char>(text[i]);
        if (c >= 0xC0 && c < 0xE0 && i + 1 < text.size()) c = (c & 31) << 6 | (text[++i] & 63);
        const auto found = bytes.find(c);
        if (found == bytes.end()) return {};
        out += found->second;
    }
    return out;
}

// The object {text: number} of a vocab.json or tokenizer.json.
nlohmann::json vocabulary_in(const std::string& path) {
    nlohmann::json root = read_json(path);
    if (root.is_object() && root.contains("model") && root["model"].is_object())
        return root["model"].value("vocab", root);
    return root;
}

bool is_of_bytes(const nlohmann::json& vocabulary) {
    if (!vocabulary.is_object() || vocabulary.size() != kByteVocabSize) return false;
    for (const auto& [text, number] : vocabulary.items()) {
        if (!number.is_number_unsigned()) return false;
        const auto id = number.get<uint64_t>();
        const bool right = text == kEndOfText ? id == kByteVocabSize - 1
                                              : id < 256 && bytes_of(text) == std::string(1, static_cast<char>(id));
        if (!right) return false;
    }
    return true;
}

}  // namespace

std::string Tokenizer::kind_of(const std::string& path) {
    try {
        if (path.ends_with(".json") && is_of_bytes(vocabulary_in(path))) return "byte";
        const Tokenizer t = load(path);
        if (t.is_byte()) return "byte";
        return t.size() == kGpt2VocabSize ? "gpt2" : "unknown";
    } catch (const Error&) {
        return "unknown";
    }
}

std::string Tokenizer::find(const std::string& folder) {
    for (const char* name : {"tokenizer.bin", "gpt2_tokenizer.bin", "vocab.json", "tokenizer.json"})
        if (fs::is_regular_file(fs::path(folder) / name)) return (fs::path(folder) / name).string();
    return "";
}

Tokenizer Tokenizer::load(const std::string& path) {
    return path.ends_with(".json") ? load_json(path) : load_bin(path);
}

Tokenizer Tokenizer::load_bin(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    int32_t header[256] = {};
    if (!in.read(reinterpret_cast<char*>(header), sizeof header))
        fail_data("cannot read the tokenizer ", path, ": make it with dev/data/tokenizer.py");
    const bool old = header[1] == 1 && header[2] == kGpt2VocabSize;
    if (header[0] != kMagic || (header[1] != kVersion && !old))
        fail_data(path, " is no tokenizer file of version 2 (magic ", header[0], ", version ", header[1],
                  "): make it with dev/data/tokenizer.py");
    Tokenizer t;
    t.end_of_document_ = old ? kGpt2VocabSize - 1 : header[3];
    for (int i = 0; i < header[2]; ++i) {
        const int length = in.get();
        std::string piece(length > 0 ? length : 0, '\0');
        if (length < 0 || !in.read(piece.data(), length))
            fail_data(path, " is truncated at token ", i, " of ", header[2]);
        if (i != t.end_of_document_) t.ids_.emplace(piece, i);
        t.pieces_.push_back(std::move(piece));
    }
    return t;
}

Tokenizer Tokenizer::load_json(const std::string& path) {
    const nlohmann::json root = vocabulary_in(path);
    if (!root.is_object() || root.size() != size_t(kGpt2VocabSize) || !root.contains(kEndOfText))
        fail_data(path, " is not GPT-2's vocabulary: it should have ", kGpt2VocabSize, " tokens and ", kEndOfText,
                  " among them");
    Tokenizer t;
    t.pieces_.resize(root.size());
    for (auto& [text, id] : root.items()) {
        if (!id.is_number_unsigned() || id >= root.size() || !t.pieces_[id].empty())
            fail_data(path, ": the token '", text, "' has the number ", id.dump(),
                      ", which is out of range or used twice");
        const bool end = text == kEndOfText;
        if (end) t.end_of_document_ = id;
        const std::optional<std::string> piece = end ? text : bytes_of(text);
        if (!piece) fail_data(path, ": the token '", text, "' is not in GPT-2's alphabet of bytes");
        t.pieces_[id] = *piece;
        if (!end) t.ids_.emplace(t.pieces_[id], id.get<int32_t>());
    }
    return t;
}

void Tokenizer::save(const std::string& path) const {
    std::ofstream out(path, std::ios::binary);
    std::array<int32_t, 256> header = {kMagic, kVersion, int32_t(pieces_.size()), end_of_document_};
    out.write(reinterpret_cast<const char*>(header.data()), sizeof header);
    for (const std::string& piece : pieces_) out.put(char(piece.size())) << piece;
    if (!out.flush()) fail("cannot write ", path);
}

}  // namespace llmc
