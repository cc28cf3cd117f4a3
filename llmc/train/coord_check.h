// A coordinate check (Yang et al., "Tensor Programs V", appendix D.1): statistics of every activation, parameter and
// gradient at every step of a run on one batch, as a CSV. Under a right parametrization their sizes do not depend on the
// width. scripts/mup_coordinate_check.sh runs it over widths and schemes, dev/mup_coordinate_check_visualize.py judges.
//
// An observer: it sees what GPT2 announces, and reduces it on the device with ops. Columns and names: doc/formats.md.
#pragma once
#include <cstdio>
#include <map>
#include <string>
#include <vector>
#include "llmc/gpt2/gpt2.h"
#include "llmc/train/optimizer.h"

namespace llmc {

class CoordinateCheck {
public:
    // Creates the file. For a model that is trained on one and the same batch. The rows name seed and lr.
    // Of a bf16 model's parameters it looks at the fp32 masters: an update is often smaller than bf16 resolves.
    CoordinateCheck(const std::string& path, GPT2& model, const Optimizer& optimizer, int64_t seed, double lr);
    ~CoordinateCheck();
    CoordinateCheck(const CoordinateCheck&) = delete;

    void begin_step();  // from here on the model's activations are looked at, until
    void end_step();    // after the backward pass, before the update: the rows of this step are written

private:
    struct Sums {
        double count = 0, absolute = 0, sum = 0, squares = 0, difference = 0;
    };
    void activation(const std::string& name, Tensor value);
    void heads(const std::string& block, Tensor qkv);
    void branch(const std::string& name, Tensor inp, const LinearParameters& layer);
    // Adds to what is known of `name` in this step: it may come in pieces. columns: 0: from first_column on, all.
    void add(const std::string& name, Tensor value, Tensor first_value, int64_t first_column = 0, int64_t columns = 0);
    Tensor remember(const std::string& name, Tensor value);  // the same tensor at step 1; empty at step 1
    std::vector<float> reduce(Tensor value, Tensor minus, int64_t first_column, int64_t columns);
    Tensor scratch(const std::string& name, DType dtype, int64_t rows, int64_t columns);
    void parameters();
    void row(const char* kind, const std::string& tensor, const char* role, float multiplier, const Sums& sums,
             bool has_difference);

    std::string path_, run_;  // run_: the columns that are the same in all rows
    std::FILE* file_;
    GPT2& model_;
    int64_t step_ = 0;
    std::vector<std::pair<std::string, Sums>> seen_;  // of this step, in order
    std::map<std::string, int> pieces_;               // of this step, by name
    std::map<std::string, Tensor> masters_;           // by parameter; none in fp32
    std::map<std::string, device::Buffer> first_, scratch_;
    device::Buffer statistics_;
};

}  // namespace llmc
