// Text to tokens and back, for prompts and samples. `byte`: the 256 byte values and 256 = end of document. `gpt2`:
// GPT-2's byte-pair encoding, whose token numbers are the merge ranks, from one of these files: llm.c's tokenizer.bin
// or gpt2_tokenizer.bin (doc/formats.md), or vocab.json or tokenizer.json, which transformers writes beside its weights.
#pragma once
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace llmc {

constexpr int kByteVocabSize = 257, kGpt2VocabSize = 50257;

class Tokenizer {
public:
    static Tokenizer byte();
    static Tokenizer load(const std::string& path);  // tokenizer_files.cpp; data error naming the file
    void save(const std::string& path) const;        // tokenizer.bin
    // The first of these files that is in the folder; empty: none is.
    static std::string find(const std::string& folder);
    // Of the table in a file: "byte" for the 257 tokens of bytes and the end of a document, "gpt2", or "unknown" for
    // another one and what cannot be read.
    static std::string kind_of(const std::string& path);

    std::vector<int32_t> encode(const std::string& text) const;
    std::string decode(const std::vector<int32_t>& tokens) const;
    int32_t end_of_document() const { return end_of_document_; }
    int size() const { return int(pieces_.size()); }

private:
    static Tokenizer load_bin(const std::string& path);
    static Tokenizer load_json(const std::string& path);
    void encode_word(const std::string& word, std::vector<int32_t>& out) const;
    bool is_byte() const;

    std::vector<std::string> pieces_;  // bytes of each token
    std::unordered_map<std::string, int32_t> ids_;
    int32_t end_of_document_ = 0;
};

// GPT-2's split of a text into words, within which pairs are merged:
//   's|'t|'re|'ve|'m|'ll|'d| ?letters| ?digits| ?other|spaces not before a word|spaces
// Beyond ASCII, letters and digits are those of the C library's UTF-8 locale, which may differ from the newest Unicode
// tables.
std::vector<std::string> split_words(const std::string& text);

}  // namespace llmc
