#include "llmc/data/shards.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/core/sha256.h"

namespace llmc {
namespace {

constexpr int kMagic = 20240520, kHeaderInts = 256;
constexpr int kLlama3Magic = 20240801;
constexpr size_t kHashedBlock = 65536, kHashedBlocks = 16;  // of a shard's content

}  // namespace

Shard::Shard(const std::string& p) : path(p), file_(p, "token shard") {
    if (file_.size() < kHeaderInts * sizeof(int32_t))
        fail_data(path, " is not a token shard: ", plural(int64_t(file_.size()), "byte"),
                  ", but the header alone has 1,024");
    const int32_t* header = reinterpret_cast<const int32_t*>(file_.data());
    if (header[0] != kMagic)
        fail_data(path, " is not a token shard: its magic number is ", header[0], ", not ", kMagic,
                  header[0] == kLlama3Magic ? " (a Llama-3 shard: tokenize again with dev/data/text.py)"
                                            : "; make one with dev/data/text.py");
    if (header[1] != 1 && header[1] != 2)
        fail_data(path, " has shard version ", header[1], "; this program reads 1 (uint16) and 2 (uint32)");
    wide_ = header[1] == 2;
    tokens = uint32_t(header[2]);
    const size_t expected = 1024 + size_t(tokens) * (wide_ ? 4 : 2);
    if (file_.size() != expected)
        fail_data(path, " is truncated or damaged: with ", plural(tokens, "token"), " it should have ",
                  plural(int64_t(expected), "byte"), ", it has ", with_commas(int64_t(file_.size())),
                  "; make it again");
    if (tokens < 2) fail_data(path, " holds ", plural(tokens, "token"), ": too few for an input and its target");
    vocab_size = header[3];
    tokenizer = header[4];
    bytes = int64_t(uint32_t(header[5])) | int64_t(uint32_t(header[6])) << 32;
    const auto* digest = reinterpret_cast<const unsigned char*>(header + 8);
    if (std::any_of(digest, digest + 32, [](unsigned char c) { return c != 0; })) {
        char hex[3];
        for (int i = 0; i < 32; ++i) source_sha256 += (std::snprintf(hex, sizeof hex, "%02x", digest[i]), hex);
    }
}

void Shard::read(int64_t begin, int64_t count, int64_t vocab, int32_t* out) const {
    const char* data = file_.data() + kHeaderInts * sizeof(int32_t);
    const auto* narrow = reinterpret_cast<const uint16_t*>(data) + begin;
    const auto* wide = reinterpret_cast<const uint32_t*>(data) + begin;
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t token = wide_ ? wide[i] : narrow[i];
        if (token >= uint64_t(vocab))
            fail_data(path, ": token ", begin + i, " is ", token, ", but the vocabulary's size is ", vocab,
                      ": give the --vocab-size that the shard was made with");
        out[i] = int32_t(token);
    }
}

// Shards with other tokens usually differ in the first ones.
bool Shard::has_the_tokens_of(const Shard& other) const {
    if (tokens != other.tokens || wide_ != other.wide_) return false;
    const size_t header = kHeaderInts * sizeof(int32_t);
    return path == other.path ||
           std::memcmp(file_.data() + header, other.file_.data() + header, file_.size() - header) == 0;
}

const std::string& Shard::content_sha256() const {
    if (!content_sha256_.empty()) return content_sha256_;
    Sha256 hash;
    if (file_.size() <= kHashedBlock * kHashedBlocks) {
        hash.add(file_.data(), file_.size());
    } else {
        const size_t last = file_.size() - kHashedBlock;  // where the last block begins
        for (size_t i = 0; i < kHashedBlocks; ++i)
            hash.add(file_.data() + i * last / (kHashedBlocks - 1), kHashedBlock);
    }
    return content_sha256_ = hash.hex();
}

}  // namespace llmc
