#include "llmc/train/checkpoint/safetensors.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/train/checkpoint/other_formats.h"

namespace llmc {
namespace {

using nlohmann::json;

constexpr uint64_t kLongestHeader = 100'000'000;  // bytes
constexpr int kDeepest = 127;                     // levels of nesting

int64_t count_of(const std::vector<int64_t>& shape) {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
}

// The formats' dtypes, with the bits of one number.
const std::map<std::string, uint64_t> kBits = {
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}};

// IEEE binary16: 1 bit of sign, 5 of exponent, 10 of fraction.
float half_to_float(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                            : exponent == 0 ? std::ldexp(float(fraction), -24)
                                            : std::ldexp(float(fraction + 1024), exponent - 25);
    return bits >> 15 ? -magnitude : magnitude;
}

template <class T, class F>
void convert(const char* data, std::vector<float>& values, F to) {
    std::vector<T> raw(values.size());
    std::memcpy(raw.data(), data, raw.size() * sizeof(T));
    std::transform(raw.begin(), raw.end(), values.begin(), to);
}

std::string shape_string(const std::vector<int64_t>& shape) { return json(shape).dump(); }

[[noreturn]] void fail_to_write(const std::string& path) {
    fail("cannot write ", path, ": ", std::strerror(errno),
         "; free some space, or choose another --out; earlier checkpoints are intact");
}

class Output {  // a file descriptor whose writes either succeed or throw
public:
    explicit Output(const std::string& path)
        : path_(path), fd_(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644)) {
        if (fd_ < 0) fail("cannot create ", path_, ": ", std::strerror(errno));
    }
    ~Output() {
        if (fd_ >= 0) close(fd_);
    }
    void write(const void* data, size_t bytes) {
        for (const char* p = static_cast<const char*>(data); bytes > 0;) {
            const ssize_t n = ::write(fd_, p, bytes);
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) fail_to_write(path_);
            p += n;
            bytes -= size_t(n);
        }
    }
    // Makes the file as long as this; a disk that is too full is an error now where the file system can tell.
    void reserve(size_t bytes) {
        if (fallocate(fd_, 0, 0, off_t(bytes)) == 0) return;
        if (errno != EOPNOTSUPP && errno != ENOSYS) fail_to_write(path_);
        if (ftruncate(fd_, off_t(bytes)) != 0) fail_to_write(path_);
    }
    void finish() {
        if (fsync(fd_) != 0)
            fail("cannot write ", path_, " to disk: ", std::strerror(errno), "; earlier checkpoints are intact");
        close(fd_);
        fd_ = -1;
    }

private:
    std::string path_;
    int fd_;
};

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& p) : path(p), file_(p, "checkpoint") {
    const size_t size = file_.size();
    if (size < 8)
        fail_damaged(path, " is no safetensors file: it has ", plural(int64_t(size), "byte"), what_file_is(path));
    uint64_t length;
    std::memcpy(&length, file_.data(), sizeof length);
    if (length > kLongestHeader) {
        const std::string what = what_file_is(path);
        fail_damaged(
            path, " is no safetensors file",
            what.empty() ? str(": its header should have ", length, " bytes, more than the format allows") : what);
    }
    if (length > size - 8)
        fail_damaged(path, " is no safetensors file, or truncated: its header should have ",
                     plural(int64_t(length), "byte"), ", the file has ", with_commas(int64_t(size)));
    data_offset_ = 8 + length;
    parse(std::string(file_.data() + 8, length), size - data_offset_);
}

SafetensorsFile::Entry SafetensorsFile::parse_entry(const std::string& name, const json& value,
                                                    size_t data_bytes) const {
    if (value.is_array() && value.size() == 3)  // the library reads this, too
        return parse_entry(name, {{"dtype", value[0]}, {"shape", value[1]}, {"data_offsets", value[2]}}, data_bytes);
    const auto known = kBits.find(value.at("dtype").get<std::string>());
    if (known == kBits.end())
        fail_damaged(path, ": tensor ", name, " has the dtype ", value.at("dtype").dump(),
                     ", which the safetensors format does not have");
    const json &shape = value.at("shape"), &offsets = value.at("data_offsets");
    const auto whole = [](const json& number) { return number.is_number_unsigned(); };
    if (!shape.is_array() || !offsets.is_array() || offsets.size() != 2 ||
        !std::all_of(shape.begin(), shape.end(), whole) || !std::all_of(offsets.begin(), offsets.end(), whole))
        fail_damaged(path, " is damaged: tensor ", name, " has the shape ", shape.dump(), " and the data_offsets ",
                     offsets.dump(), ", which must be whole numbers");
    Entry e{known->first, {}, offsets.at(0), offsets.at(1)};
    uint64_t bits = 1;
    bool overflow = false;
    for (const json& d : shape) {
        overflow |= __builtin_mul_overflow(bits, d.get<uint64_t>(), &bits);
        e.shape.push_back(int64_t(d.get<uint64_t>()));
    }
    if (overflow || __builtin_mul_overflow(bits, known->second, &bits))
        fail_damaged(path, " is damaged: tensor ", name, " has the shape ", shape.dump());
    if (e.begin > e.end || e.end > data_bytes)
        fail_damaged(path, " is truncated or damaged: tensor ", name, " should be at bytes ", e.begin, " to ", e.end,
                     " of ", data_bytes);
    if (bits % 8 != 0 || bits / 8 != e.end - e.begin)
        fail_damaged(path, " is damaged: tensor ", name, " with shape ", shape.dump(), " and dtype ", e.dtype,
                     " cannot have ", plural(int64_t(e.end - e.begin), "byte"));
    return e;
}

// nlohmann's parser takes a byte order mark, and a zero byte for the end of the text; the format has neither. The
// library refuses deep nesting and keys of its own that come twice.
json SafetensorsFile::parse_header(const std::string& header) const {
    if (header.find('\0') != std::string::npos || header.starts_with("\xEF\xBB\xBF")) return {};
    std::set<std::string> seen;  // keys of the current entry
    std::string entry;
    bool metadata_seen = false;
    return json::parse(
        header,
        [&](int depth, json::parse_event_t event, json& value) {
            const bool begins = event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
            if (begins && depth >= kDeepest) fail_damaged(path, " is damaged: its header is nested too deeply");
            if (event != json::parse_event_t::key) return true;
            const std::string key = value;
            const bool metadata = depth == 1 && key == "__metadata__";
            const bool field = depth == 2 && entry != "__metadata__" &&
                               (key == "dtype" || key == "shape" || key == "data_offsets");
            if ((metadata && metadata_seen) || (field && !seen.insert(key).second))
                fail_damaged(path, " is damaged: its header has the key ", key, " twice", field ? " in " + entry : "");
            metadata_seen |= metadata;
            if (depth == 1) entry = key, seen.clear();
            return true;
        },
        false);
}

void SafetensorsFile::parse(const std::string& header, size_t data_bytes) {
    const json root = parse_header(header);
    if (!root.is_object()) fail_damaged(path, " is no safetensors file, or damaged: its header is not a JSON object");
    std::vector<std::pair<size_t, size_t>> ranges;
    try {
        for (auto& [name, value] : root.items()) {
            if (name == "__metadata__") {
                if (!value.is_null()) metadata_ = value.get<std::map<std::string, std::string>>();
                continue;
            }
            const Entry& e = entries_[name] = parse_entry(name, value, data_bytes);
            ranges.push_back({e.begin, e.end});
        }
    } catch (const json::exception& error) {
        fail_damaged(path, " is damaged: its header does not follow the safetensors format (", error.what(), ")");
    }
    std::sort(ranges.begin(), ranges.end());
    size_t end = 0;
    for (auto& [b, e] : ranges) {
        if (b != end)
            fail_damaged(path, " is damaged: its tensors ", b < end ? "overlap" : "leave a gap", " at byte ", b);
        end = e;
    }
    if (end != data_bytes)
        fail_damaged(path, " is damaged: ", "it ends with ", plural(int64_t(data_bytes - end), "byte"),
                     " of no tensor");
}

const std::string& SafetensorsFile::metadata(const std::string& key) const {
    auto found = metadata_.find(key);
    if (found == metadata_.end())
        fail_damaged(path, " is damaged, or not of this project: its metadata has no '", key, "'");
    return found->second;
}

const SafetensorsFile::Entry& SafetensorsFile::find(const std::string& name, const std::vector<int64_t>& shape) const {
    auto found = entries_.find(name);
    if (found == entries_.end())
        fail_damaged(path, " has no tensor '", name, "': is it a checkpoint of another model?");
    const Entry& e = found->second;
    if (e.shape != shape)
        fail_damaged(path, ": tensor ", name, " has the shape ", shape_string(e.shape), ", the model needs ",
                     shape_string(shape));
    if (e.dtype != "F32" && e.dtype != "BF16" && e.dtype != "F16")
        fail_damaged(path, ": tensor ", name, " has dtype ", e.dtype, "; this program reads F32, BF16 and F16");
    return e;
}

std::vector<float> SafetensorsFile::read(const std::string& name, const std::vector<int64_t>& shape) const {
    const Entry& e = find(name, shape);
    const char* data = file_.data() + data_offset_ + e.begin;
    std::vector<float> values(count_of(shape));
    if (e.dtype == "F32")
        std::memcpy(values.data(), data, e.end - e.begin);
    else if (e.dtype == "BF16")
        convert<uint16_t>(data, values, [](uint16_t bits) { return to_float(bf16{bits}); });
    else
        convert<uint16_t>(data, values, half_to_float);
    check_finite(values, path, name);
    return values;
}

void check_finite(const std::vector<float>& values, const std::string& path, const std::string& tensor) {
    const auto bad = std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); });
    if (bad == values.end()) return;
    fail_damaged(path, ": tensor ", tensor, " has ", std::isnan(*bad) ? "NaN" : "infinity", " at element ",
                 bad - values.begin(), " of ", values.size(),
                 ": the run that wrote it had diverged, or the file is damaged; use an earlier checkpoint");
}

namespace {

size_t bytes_of(const SafetensorsEntry& e) { return size_t(count_of(e.shape)) * size_of(e.dtype); }

// Length and header, as they are in the file.
std::string head_of(const std::vector<SafetensorsEntry>& entries, const std::map<std::string, std::string>& metadata) {
    nlohmann::ordered_json header;
    header["__metadata__"] = metadata;
    size_t offset = 0;
    for (const SafetensorsEntry& e : entries) {
        header[e.name] = {{"dtype", e.dtype == DType::f32 ? "F32" : "BF16"},
                          {"shape", e.shape},
                          {"data_offsets", {offset, offset + bytes_of(e)}}};
        offset += bytes_of(e);
    }
    // Bytes that are not UTF-8 (in a prompt, for example) are replaced: they must not make a checkpoint fail.
    std::string text = header.dump(-1, ' ', false, json::error_handler_t::replace);
    text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data is aligned
    const uint64_t length = text.size();
    return std::string(reinterpret_cast<const char*>(&length), 8) + text;
}

// Calls write(bytes, count) with the data of an entry, piece by piece.
template <class Write>
void write_entry(const SafetensorsEntry& e, Write&& write) {
    const int64_t all = count_of(e.shape);
    for (int64_t begin = 0; begin < all; begin += e.piece) {
        const std::vector<float> values = e.values(begin, std::min(e.piece, all - begin));
        if (e.dtype == DType::f32) {
            write(values.data(), values.size() * 4);
        } else {
            std::vector<bf16> rounded(values.size());
            std::transform(values.begin(), values.end(), rounded.begin(), to_bf16);
            write(rounded.data(), rounded.size() * 2);
        }
    }
}

}  // namespace

void write_safetensors(const std::string& path, const std::vector<SafetensorsEntry>& entries,
                       const std::map<std::string, std::string>& metadata) {
    const std::string head = head_of(entries, metadata);
    Output out(path);
    out.write(head.data(), head.size());
    for (const SafetensorsEntry& e : entries)
        write_entry(e, [&](const void* data, size_t bytes) { out.write(data, bytes); });
    out.finish();
}

void SafetensorsWriter::create(const std::string& path, const std::vector<SafetensorsEntry>& entries,
                               const std::map<std::string, std::string>& metadata) {
    const std::string head = head_of(entries, metadata);
    size_t bytes = head.size();
    for (const SafetensorsEntry& e : entries) bytes += bytes_of(e);
    Output out(path);
    out.write(head.data(), head.size());
    out.reserve(bytes);
    out.finish();
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::vector<SafetensorsEntry>& entries)
    : path_(path), entries_(entries), fd_(open(path.c_str(), O_RDWR | O_CLOEXEC)) {
    if (fd_ < 0)
        fail("cannot open ", path, ": ", std::strerror(errno),
             ": --out must be a folder that all hosts of the run share");
    uint64_t length = 0;
    if (pread(fd_, &length, sizeof length, 0) != sizeof length) fail("cannot read ", path, ": ", std::strerror(errno));
    size_t offset = 8 + length;
    for (const SafetensorsEntry& e : entries) {
        offsets_.push_back(offset);
        offset += bytes_of(e);
    }
}

SafetensorsWriter::~SafetensorsWriter() {
    if (fd_ >= 0) close(fd_);
}

void SafetensorsWriter::write(size_t entry) {
    size_t offset = offsets_[entry];
    write_entry(entries_[entry], [&](const void* data, size_t bytes) {
        for (const char* p = static_cast<const char*>(data); bytes > 0;) {
            const ssize_t n = pwrite(fd_, p, bytes, off_t(offset));
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) fail_to_write(path_);
            p += n, offset += size_t(n), bytes -= size_t(n);
        }
    });
}

void SafetensorsWriter::finish() {
    if (fsync(fd_) != 0)
        fail("cannot write ", path_, " to disk: ", std::strerror(errno), "; earlier checkpoints are intact");
}

}  // namespace llmc
