#include "llmc/data/multiple_choice.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/core/mapped_file.h"

namespace llmc {
namespace {

constexpr int32_t kMagic = 20240522, kVersion = 1, kHeaderBytes = 1024;
constexpr int kStartOfExample = 65535;

template <class Label>
[[noreturn]] void refuse_label(const std::string& place, const Label& label, size_t endings) {
    fail_data(place, ": the label is ", label, ", but the endings have the numbers 0 to ", endings - 1);
}

// --- JSON lines: {"ctx": "...", "endings": ["...", ...], "label": 3}, other keys are not read ---

int label_of(const nlohmann::json& value, const std::string& place, size_t endings) {
    for (size_t i = 0; i < endings; ++i)
        if ((value.is_number_integer() && value == i) || value == std::to_string(i)) return int(i);  // 3 or "3"
    refuse_label(place, value.dump(), endings);
}

std::string text_of(const nlohmann::json& value, const std::string& place, const char* what) {
    if (!value.is_string()) fail_data(place, ": ", what, " is ", value.dump(), ", not a text");
    return value.get<std::string>();
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, const std::string& text, const ModelTokens& model,
                            const std::string& place) {
    std::vector<int32_t> tokens = tokenizer.encode(text);
    for (int32_t token : tokens)
        if (token >= model.vocab_size)
            fail_data(place, ": the tokenizer's token ", token, " is beyond the model's vocabulary of ",
                      model.vocab_size, ": give the right --tokenizer");
    return tokens;
}

ChoiceExample parse_line(std::string_view line, const std::string& place, const Tokenizer& tokenizer,
                         const ModelTokens& model) {
    const bool cut = line.find('\0') != std::string_view::npos;  // the parser takes it for the end of the text
    const nlohmann::json object = cut ? nlohmann::json(nlohmann::json::value_t::discarded)
                                      : nlohmann::json::parse(line, nullptr, false);
    if (!object.is_object()) fail_data(place, " is not a JSON object");
    for (const char* key : {"ctx", "endings", "label"})
        if (!object.contains(key)) fail_data(place, " has no \"", key, "\"");
    const nlohmann::json& endings = object["endings"];
    if (!endings.is_array() || endings.size() < 2)
        fail_data(place, ": the endings should be a list of at least two texts");
    ChoiceExample out;
    out.context = encode(tokenizer, text_of(object["ctx"], place, "the context"), model, place);
    if (out.context.empty()) fail_data(place, ": the context is empty");
    for (const nlohmann::json& ending : endings) {
        const std::string text = text_of(ending, place, "an ending");
        out.endings.push_back(encode(tokenizer, " " + text, model, place));
        out.bytes.push_back(std::max<int64_t>(1, int64_t(text.size())));
    }
    out.label = label_of(object["label"], place, out.endings.size());
    return out;
}

std::vector<ChoiceExample> read_lines(std::string_view text, const std::string& path, int64_t limit,
                                      const ModelTokens& model) {
    const std::unique_ptr<Tokenizer> tokenizer = model.open();
    std::vector<ChoiceExample> out;
    for (int64_t number = 1; !text.empty() && (limit == 0 || int64_t(out.size()) < limit); ++number) {
        const size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
        out.push_back(parse_line(line, str(path, ", line ", number), *tokenizer, model));
    }
    return out;
}

// --- llm.c's eval file ---

// The uint16 numbers of one example after the other.
class Numbers {
public:
    Numbers(const MappedFile& file, const std::string& path, int64_t vocab_size)
        : file_(file), path_(path), vocab_size_(vocab_size) {}

    size_t offset() const { return at_; }
    std::string here() const { return str(path_, ", byte ", at_); }  // of the next number
    void end_at(size_t end) { end_ = end; }
    int next() {
        if (at_ + 2 > end_)
            fail_data(path_, " is truncated or damaged: ", example_, " ends at byte ", end_, ", within its numbers");
        uint16_t value;
        std::memcpy(&value, file_.data() + at_, sizeof value);
        at_ += sizeof value;
        return value;
    }
    std::vector<int32_t> tokens(const char* what) {
        const std::string place = here();
        const int count = next();
        std::vector<int32_t> out(static_cast<size_t>(count));
        if (out.empty()) fail_data(place, ": ", what, " of ", example_, " has no tokens");
        for (int32_t& token : out) {
            const size_t at = at_;
            token = next();
            if (token >= vocab_size_)
                fail_data(path_, ", byte ", at, ": the token ", token, " is beyond the model's vocabulary of ",
                          vocab_size_, ": give a file made with the model's tokenizer");
        }
        return out;
    }
    ChoiceExample example(int64_t number, int64_t count) {
        example_ = str("example ", number + 1, " of ", count);
        const size_t begin = at_;
        end_at(file_.size());
        if (const int start = next(); start != kStartOfExample)
            fail_data(path_, ", byte ", begin, ": ", example_, " begins with ", start, ", not ", kStartOfExample);
        const int size = next();
        if (begin + size_t(size) > file_.size())
            fail_data(path_, " is truncated: ", example_, " should have ", size, " bytes from byte ", begin,
                      " on, the file has ", with_commas(int64_t(file_.size())));
        end_at(begin + size_t(size));
        std::string place = here();
        if (const int index = next(); index != number)
            fail_data(place, ": ", example_, " has the number ", index, ", not ", number);
        place = here();
        ChoiceExample out{.label = next()};
        const int endings = next();
        if (endings < 2) fail_data(place, ": ", example_, " has ", plural(endings, "ending"), ", fewer than two");
        if (out.label >= endings) refuse_label(place, out.label, size_t(endings));
        out.context = tokens("the context");
        for (int i = 0; i < endings; ++i) out.endings.push_back(tokens("an ending"));
        if (at_ != end_) fail_data(here(), ": ", example_, " should end here, but ends at byte ", end_);
        return out;
    }

private:
    const MappedFile& file_;
    const std::string& path_;
    int64_t vocab_size_;
    size_t at_ = kHeaderBytes, end_ = kHeaderBytes;  // end: of the current example
    std::string example_;
};

std::vector<ChoiceExample> read_eval_file(const MappedFile& file, const std::string& path, int64_t limit,
                                          const ModelTokens& model) {
    int32_t header[256];
    if (file.size() < sizeof header)
        fail_data(path, " is neither JSON lines (it does not begin with {) nor llm.c's eval file (it has ",
                  plural(int64_t(file.size()), "byte"), ", the header alone 1,024)");
    std::memcpy(header, file.data(), sizeof header);
    if (header[0] != kMagic)
        fail_data(path, " is neither JSON lines (it does not begin with {) nor llm.c's eval file (its magic number is ",
                  header[0], ", not ", kMagic, "): make one with dev/data/hellaswag.py");
    if (header[1] != kVersion)
        fail_data(path, " is an eval file of version ", header[1], ", this program reads ", kVersion);
    if (header[2] < 1) fail_data(path, " has ", header[2], " examples: make it again with dev/data/hellaswag.py");
    const std::string made_with = header[4] == 1 ? "byte" : header[4] == 2 ? "gpt2" : "unknown";
    if (made_with != "unknown" && model.tokenizer != "unknown" && made_with != model.tokenizer)
        fail_data(path, " was made with the tokenizer ", made_with, ", the model has ", model.tokenizer,
                  ": make it with dev/data/hellaswag.py --tokenizer ", model.tokenizer);
    std::vector<ChoiceExample> out;
    const int64_t count = limit > 0 ? std::min<int64_t>(limit, header[2]) : header[2];
    Numbers numbers(file, path, model.vocab_size);
    while (int64_t(out.size()) < count) out.push_back(numbers.example(int64_t(out.size()), header[2]));
    if (count == header[2] && numbers.offset() != file.size())
        fail_data(numbers.here(), ": after the last example the file should end, it has ",
                  with_commas(int64_t(file.size())), " bytes");
    return out;
}

}  // namespace

std::vector<ChoiceExample> read_choices(const std::string& path, int64_t limit, const ModelTokens& tokens) {
    const MappedFile file(path, "file of examples");
    std::string_view text(file.data(), file.size());
    if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
    const size_t first = text.find_first_not_of(" \t\r\n");
    if (first != std::string_view::npos && text[first] == '{') return read_lines(text, path, limit, tokens);
    return read_eval_file(file, path, limit, tokens);
}

}  // namespace llmc
