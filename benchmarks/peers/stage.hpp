// A stage that can be timed by itself, and the raw files that its inputs come from.
#pragma once

#include <time.h>

#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <ostream>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "reference/random.hpp"

namespace peers {

static_assert(std::endian::native == std::endian::little, "raw files are little-endian");

struct Stage {
  std::function<void()> prepare = [] {};       ///< outside the clock
  std::function<void()> run;                   ///< what is timed
  std::function<void(std::ostream&)> write{};  ///< the result of the last run, raw; limits have none
};

using Stages = std::map<std::string, Stage>;

/// Milliseconds of one run. `processor` leaves out what other programs took.
struct Sample {
  double elapsed = 0;
  double processor = 0;  ///< of all threads
};

inline double processor_ms() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

/// `count` runs, one after the other.
inline std::vector<Sample> time(const Stage& stage, std::size_t count) {
  std::vector<Sample> samples(count);
  for (Sample& sample : samples) {
    stage.prepare();
    const double processor = processor_ms();
    const auto start = std::chrono::steady_clock::now();
    stage.run();
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    sample = {elapsed.count(), processor_ms() - processor};
  }
  return samples;
}

/// Part number `part` of `parts`, all of about the same size.
template <class T>
std::span<T> part_of(std::span<T> all, std::size_t part, std::size_t parts) {
  const std::size_t begin = all.size() * part / parts;
  return all.subspan(begin, all.size() * (part + 1) / parts - begin);
}

template <class T>
void write_raw(std::ostream& out, std::span<const T> values) {
  out.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size_bytes()));
}

/// Input files, DIR/NAME.f32 (or .i32); without a folder the values are random, the same every time.
struct Inputs {
  std::filesystem::path folder;
};

/// The floats of one input, in order.
class FloatSource {
 public:
  /// Throws std::runtime_error unless the file holds `count` floats.
  FloatSource(const Inputs& inputs, const std::string& name, std::size_t count) : random_(count) {
    if (inputs.folder.empty()) return;
    const auto path = inputs.folder / (name + ".f32");
    file_.open(path, std::ios::binary);
    if (!file_) throw std::runtime_error("cannot read " + path.string());
    if (std::filesystem::file_size(path) != count * sizeof(float))
      throw std::runtime_error(path.string() + " must hold " + std::to_string(count) + " floats");
  }

  void next(std::span<float> values) {
    if (file_.is_open())
      file_.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size_bytes()));
    else
      for (float& x : values) x = static_cast<float>(random_.uniform());
  }

 private:
  std::ifstream file_;
  reference::Random random_;
};

inline std::vector<float> floats(const Inputs& inputs, const std::string& name, std::size_t count) {
  std::vector<float> values(count);
  FloatSource(inputs, name, count).next(values);
  return values;
}

}  // namespace peers
