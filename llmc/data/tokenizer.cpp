#include "llmc/data/tokenizer.h"

#include <algorithm>
#include <cstdint>

#include "llmc/core/error.h"
#include "llmc/data/character_classes.h"

namespace llmc {
namespace {

enum class Kind { letter, digit, space, other };

struct Character {
    Kind kind;
    size_t bytes;
};

template <size_t kCount>
bool is_in(const CodeRange (&ranges)[kCount], uint32_t c) {
    const CodeRange* after = std::upper_bound(ranges, ranges + kCount, c,
                                              [](uint32_t code, const CodeRange& r) { return code < r.first; });
    return after != ranges && c <= after[-1].last;
}

// Not the C library's classes: those have digits and marks among the letters, and depend on its version.
Kind kind_of(uint32_t c) {
    return is_in(kLetters, c)  ? Kind::letter
           : is_in(kDigits, c) ? Kind::digit
           : is_in(kSpaces, c) ? Kind::space
                               : Kind::other;
}

// The UTF-8 character at text[i]; a stray byte counts as one character of kind `other`.
Character character_at(const std::string& text, size_t i) {
    const unsigned char lead = text[i];
    const size_t bytes = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (bytes == 1 || i + bytes > text.size()) return {lead < 0x80 ? kind_of(lead) : Kind::other, 1};
    uint32_t code = lead & (0xFF >> (bytes + 1));
    for (size_t k = 1; k < bytes; ++k) code = code << 6 | (text[i + k] & 0x3F);
    return {kind_of(code), bytes};
}

size_t end_of_run(const std::string& text, size_t i, Kind kind) {
    while (i < text.size()) {
        Character c = character_at(text, i);
        if (c.kind != kind) break;
        i += c.bytes;
    }
    return i;
}

size_t contraction_at(const std::string& text, size_t i) {
    for (const char* ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
        if (text.compare(i, std::char_traits<char>::length(ending), ending) == 0)
            return std::char_traits<char>::length(ending);
    return 0;
}

}  // namespace

std::vector<std::string> split_words(const std::string& text) {
    std::vector<std::string> words;
    for (size_t i = 0; i < text.size();) {
        size_t end = i + contraction_at(text, i);
        if (end == i) {
            // one leading space belongs to the word
            const size_t start = text[i] == ' ' && i + 1 < text.size() ? i + 1 : i;
            const Kind kind = character_at(text, start).kind;
            if (kind != Kind::space) {
                end = end_of_run(text, start, kind);
            } else {
                end = end_of_run(text, i, Kind::space);
                size_t last = i;  // the last of several spaces belongs to the next word
                for (size_t k = i; k < end; k += character_at(text, k).bytes) last = k;
                if (end < text.size() && last > i) end = last;
            }
        }
        words.push_back(text.substr(i, end - i));
        i = end;
    }
    return words;
}

Tokenizer Tokenizer::byte() {
    Tokenizer t;
    for (int b = 0; b < 256; ++b) {
        t.pieces_.push_back(std::string(1, char(b)));
        t.ids_[t.pieces_.back()] = b;
    }
    t.pieces_.push_back("");
    t.end_of_document_ = 256;
    return t;
}

bool Tokenizer::is_byte() const {
    const Tokenizer bytes = byte();
    return size() == kByteVocabSize && end_of_document_ == kByteVocabSize - 1 && ids_ == bytes.ids_;
}

std::vector<int32_t> Tokenizer::encode(const std::string& text) const {
    std::vector<int32_t> tokens;
    if (size() == kByteVocabSize) {
        for (unsigned char c : text) tokens.push_back(c);
        return tokens;
    }
    for (const std::string& word : split_words(text)) encode_word(word, tokens);
    return tokens;
}

// Merges the adjacent pair that makes the token with the lowest number, until no pair makes a token.
void Tokenizer::encode_word(const std::string& word, std::vector<int32_t>& out) const {
    std::vector<std::string> parts;
    for (char c : word) parts.emplace_back(1, c);
    while (parts.size() > 1) {
        int32_t best = INT32_MAX;
        size_t at = 0;
        for (size_t i = 0; i + 1 < parts.size(); ++i)
            if (auto found = ids_.find(parts[i] + parts[i + 1]); found != ids_.end() && found->second < best)
                best = found->second, at = i;
        if (best == INT32_MAX) break;
        parts[at] += parts[at + 1];
        parts.erase(parts.begin() + long(at) + 1);
    }
    for (const std::string& part : parts) {
        auto found = ids_.find(part);
        if (found == ids_.end())
            fail_data("the tokenizer has no token for byte ", int(static_cast<unsigned char>(part[0])));
        out.push_back(found->second);
    }
}

std::string Tokenizer::decode(const std::vector<int32_t>& tokens) const {
    std::string text;
    for (int32_t token : tokens)
        if (token >= 0 && token < size() && token != end_of_document_) text += pieces_[token];
    return text;
}

}  // namespace llmc
