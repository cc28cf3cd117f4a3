#include "llmc/train/evaluation.h"

#include <cmath>

#include "llmc/core/format.h"

namespace llmc {

std::optional<Evaluation> evaluate(GPT2& model, const Dataset& data, const std::vector<Segment>& segments,
                                   const std::function<bool(int64_t done)>& go_on) {
    double sum = 0;  // in double, batch by batch, to keep precision
    int64_t targets = 0;
    for (size_t i = 0; i < segments.size(); ++i) {
        if (!go_on(int64_t(i))) return {};
        const Batch batch = data.read(segments[i]);
        model.set_batch(batch.inputs.data(), batch.targets.data(), segments[i].rows, segments[i].length);
        sum += double(model.mean_loss()) * double(segments[i].targets());
        targets += segments[i].targets();
    }
    const double loss = without_sign_of_nan(sum / double(targets));
    const double tokens_per_byte = data.tokens_per_byte();
    Evaluation out{loss, {}, targets};
    if (tokens_per_byte > 0) out.bits_per_byte = loss / std::log(2.0) * tokens_per_byte;
    return out;
}

}  // namespace llmc
