#include "llmc/train/evaluation.h"

#include <cmath>

#include "llmc/core/format.h"

namespace llmc {

std::optional<Evaluation> evaluate(GPT2& model, const Dataset& data, const std::vector<Segment>& segments,
                                   const SharedWork& work) {
    std::vector<double> sums(segments.size());  // of the losses of each segment
    for (size_t first = 0; first < segments.size(); first += size_t(work.ranks)) {
        if (!work.go_on(int64_t(first), int64_t(segments.size()))) return {};
        const size_t i = first + size_t(work.rank);
        if (i >= segments.size()) continue;
        const Batch batch = data.read(segments[i]);
        model.set_batch(batch.inputs.data(), batch.targets.data(), segments[i].rows, segments[i].length);
        sums[i] = double(model.mean_loss()) * double(segments[i].targets());
    }
    double sum = 0;  // in double, segment by segment, to keep precision
    int64_t targets = 0;
    for (double one : work.sum(sums)) sum += one;
    for (const Segment& segment : segments) targets += segment.targets();
    const double loss = without_sign_of_nan(sum / double(targets));
    const double tokens_per_byte = data.tokens_per_byte();
    Evaluation out{loss, {}, targets};
    if (tokens_per_byte > 0) out.bits_per_byte = loss / std::log(2.0) * tokens_per_byte;
    return out;
}

}  // namespace llmc
