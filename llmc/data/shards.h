// One token shard (doc/formats.md), memory-mapped.
#pragma once
#include <cstdint>
#include <string>

#include "llmc/core/mapped_file.h"

namespace llmc {

// Data error (exit 3) that names the file if it is not a complete shard.
class Shard {
public:
    explicit Shard(const std::string& path);

    // Tokens [begin, begin + count), each checked against vocab_size.
    void read(int64_t begin, int64_t count, int64_t vocab_size, int32_t* out) const;

    bool has_the_tokens_of(const Shard& other) const;

    // The hash of its content (doc/formats.md, "content"): of the whole file if it is small, otherwise of parts of it,
    // because all of a large data set would take minutes to read. Not for several threads at once.
    const std::string& content_sha256() const;

    std::string path;
    int64_t tokens = 0;
    int vocab_size = 0;         // 0: unknown
    int tokenizer = 0;          // 0 unknown, 1 byte, 2 gpt2
    int64_t bytes = 0;          // of source text; 0: unknown
    std::string source_sha256;  // hexadecimal; empty: unknown

private:
    MappedFile file_;
    bool wide_ = false;                   // uint32 tokens
    mutable std::string content_sha256_;  // empty: not computed yet
};

}  // namespace llmc
