#include "llmc/bind/scoring.h"

#include <algorithm>

#include "llmc/core/format.h"

namespace llmc::python {
namespace {

// The sum of the losses of windows of `length` targets that begin at these tokens, batch by batch.
double sum_of_losses(GPT2& model, const std::vector<const int32_t*>& windows, int64_t length, int batch_size) {
    double sum = 0;  // in double, to keep precision
    for (size_t first = 0; first < windows.size(); first += size_t(batch_size)) {
        const size_t count = std::min(size_t(batch_size), windows.size() - first);
        std::vector<int32_t> inputs, targets;
        for (size_t i = first; i < first + count; ++i) {
            inputs.insert(inputs.end(), windows[i], windows[i] + length);
            targets.insert(targets.end(), windows[i] + 1, windows[i] + 1 + length);
        }
        model.set_batch(inputs.data(), targets.data(), int(count), int(length));
        sum += double(model.mean_loss()) * double(targets.size());
    }
    return sum;
}

}  // namespace

void logits(GPT2& model, const TokenRows& rows, int batch_size, float* out) {
    for (int64_t first = 0; first < rows.count; first += batch_size) {
        const int64_t count = std::min<int64_t>(batch_size, rows.count - first);
        model.set_batch(&rows.tokens[size_t(first * rows.length)], nullptr, int(count), int(rows.length));
        model.forward();
        const std::vector<float> values = model.logits(0, count * rows.length);
        out = std::copy(values.begin(), values.end(), out);
    }
}

double mean_loss(GPT2& model, const TokenRows& rows, int batch_size, int seq_len) {
    const int64_t targets = rows.length - 1, rest = targets % seq_len;  // of a row
    std::vector<const int32_t*> whole, last;
    for (int64_t i = 0; i < rows.count; ++i) {
        const int32_t* row = &rows.tokens[size_t(i * rows.length)];
        for (int64_t begin = 0; begin + seq_len <= targets; begin += seq_len) whole.push_back(row + begin);
        if (rest) last.push_back(row + targets - rest);
    }
    const double sum = sum_of_losses(model, whole, seq_len, batch_size) + sum_of_losses(model, last, rest, batch_size);
    return without_sign_of_nan(sum / double(rows.count * targets));
}

}  // namespace llmc::python
