// A coordinate check (Yang et al., "Tensor Programs V", appendix D.1): statistics of every activation, parameter and
// gradient at every step of a run on one batch, as a CSV. Under a correct parametrization their sizes do not depend on
// the width. scripts/mup_coordinate_check.sh runs it over widths and schemes, dev/mup_coordinate_check_visualize.py
// prints the verdict.
//
// It receives activations as GPT2's observer, and reduces them on the device with ops. Columns, names: doc/formats.md.
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
    // Creates the file. The model must be trained on one fixed batch. Every row contains seed and lr. For a bf16 model
    // the fp32 master weights are used, because an update is often smaller than bf16 can represent.
    CoordinateCheck(const std::string& path, GPT2& model, const Optimizer& optimizer, int64_t seed, double lr);
    ~CoordinateCheck();
    CoordinateCheck(const CoordinateCheck&) = delete;

    void begin_step();  // starts to observe the model's activations
    void end_step();    // writes the rows of this step; call it after the backward pass and before the update

private:
    struct Sums {
        double count = 0, absolute = 0, sum = 0, squares = 0, difference = 0;
    };
    void activation(const std::string& name, Tensor value);
    void heads(const std::string& block, Tensor qkv);
    void branch(const std::string& name, Tensor inp, const LinearParameters& layer);
    // Adds to the sums of `name` in this step; a tensor may arrive in pieces. columns = 0: all from first_column on.
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
