// Finds outliers in a stream of losses or gradient norms by their z-score against the last 128 values.
#pragma once
#include <cmath>
#include <vector>

namespace llmc {

class OutlierDetector {
public:
    static constexpr size_t kWindow = 128;

    // z = (value - mean) / standard deviation of the window before `value`; NaN until the window is full.
    double zscore(double value) const {
        if (window_.size() < kWindow) return NAN;
        double sum = 0, squares = 0;
        for (double x : window_) sum += x;
        const double mean = sum / kWindow;
        for (double x : window_) squares += (x - mean) * (x - mean);
        const double deviation = std::sqrt(squares / kWindow);
        return deviation > 0 ? (value - mean) / deviation : 0;
    }
    // Whether the value is an outlier. Outliers are not added to the window: one spike must not hide the next.
    bool observe(double value, double threshold) {
        const bool outlier = threshold > 0 && zscore(value) > threshold;
        if (!outlier) {
            if (window_.size() == kWindow) window_.erase(window_.begin());
            window_.push_back(value);
        }
        return outlier;
    }
    const std::vector<double>& window() const { return window_; }
    void restore(std::vector<double> window) { window_ = std::move(window); }

private:
    std::vector<double> window_;
};

}  // namespace llmc
