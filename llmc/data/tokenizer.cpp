#include "llmc/data/tokenizer.h"

#include <clocale>
#include <cwctype>

#include "llmc/core/error.h"

namespace llmc {
namespace {

enum class Kind { letter, digit, space, other };

struct Character {
    Kind kind;
    size_t bytes;
};

Kind kind_of(wint_t c) {
    static const locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
    if (c < 128 || !utf8) {
        if ((c >= '0' && c <= '9')) return Kind::digit;
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return Kind::letter;
        if (c == ' ' || (c >= 9 && c <= 13)) return Kind::space;
        return Kind::other;
    }
    if (c == 0x85 || c == 0xA0 || iswspace_l(c, utf8)) return Kind::space;
    return iswalpha_l(c, utf8) ? Kind::letter : iswdigit_l(c, utf8) ? Kind::digit : Kind::other;
}

// The UTF-8 character at text[i]; a stray byte counts as one character of kind `other`.
Character character_at(const std::string& text, size_t i) {
    const unsigned char lead = text[i];
    const size_t bytes = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (bytes == 1 || i + bytes > text.size()) return {lead < 0x80 ? kind_of(lead) : Kind::other, 1};
    wint_t code = lead & (0xFF >> (bytes + 1));
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

std::vector<int32_t> Tokenizer::encode(const std::string& text) const {
    std::vector<int32_t> tokens;
    if (size() == 257) {
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
