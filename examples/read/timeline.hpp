// Time and memory along a text, for --timeline.
#pragma once

#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

#include "infinipot/ccd/ccd_settings.hpp"
#include "report.hpp"

namespace reading {

/// Takes a sample whenever another `every` tokens have been read; none if `every` is 0.
class Timeline {
 public:
  explicit Timeline(std::uint64_t every) : every_(every), due_(every) {}

  void show(const infinipot::CcdStats& stats) {
    if (every_ == 0 || stats.tokens_read < due_) return;
    due_ = (stats.tokens_read / every_ + 1) * every_;
    const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    samples_.push_back({stats.tokens_read, seconds, stats.distillations, resident_bytes()});
  }

  std::vector<Sample> take() { return std::move(samples_); }

 private:
  using Clock = std::chrono::steady_clock;

  std::uint64_t every_, due_;
  Clock::time_point start_ = Clock::now();
  std::vector<Sample> samples_;
};

}  // namespace reading
