// infinipot-drift: how exact keys are after thousands of distillations, in every element type, key storage
// and pairing; and for comparison the same keys turned in place, rounded and turned again, as engines that
// shift their caches do.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "infinipot/pot.hpp"
#include "infinipot/pot/quantized_pot.hpp"
#include "infinipot/rope/reindex.hpp"
#include "reference/random.hpp"
#include "reference/reference_rope.hpp"

namespace {

using infinipot::Index;
using infinipot::KeyStorage;
using infinipot::Pairing;
using infinipot::Pot;
using infinipot::Rope;

constexpr std::size_t head_dim = 64;

struct Options {
  std::size_t rounds = 10000, capacity = 4096, travellers = 64;
  std::string csv;
};

/// A key as an engine that shifts its cache in place would store it.
template <class T>
class ShiftedKey {
 public:
  explicit ShiftedKey(const std::vector<float>& key) {
    for (std::size_t c = 0; c < head_dim; ++c) row_[c] = T(key[c]);
  }
  void shift(const infinipot::Angles& back, Pairing pairing) {
    infinipot::detail::rotate_row(row_, back, pairing, head_dim, row_);
  }
  std::vector<float> floats() const {
    std::vector<float> key(head_dim);
    for (std::size_t c = 0; c < head_dim; ++c) key[c] = static_cast<float>(row_[c]);
    return key;
  }

 private:
  T row_[head_dim];
};

template <infinipot::Quantized T>
class ShiftedKey<T> {
 public:
  explicit ShiftedKey(const std::vector<float>& key) : row_(infinipot::detail::row_bytes<T>(head_dim)) {
    infinipot::detail::quantize_row<T>(key.data(), head_dim, row_.data());
  }
  void shift(const infinipot::Angles& back, Pairing pairing) {
    std::vector<float> key = floats();
    infinipot::rotate(key.data(), back, pairing, infinipot::Turn::backward, head_dim, key.data());
    infinipot::detail::quantize_row<T>(key.data(), head_dim, row_.data());
  }
  std::vector<float> floats() const {
    std::vector<float> key(head_dim);
    infinipot::detail::dequantize_row<T>(row_.data(), head_dim, key.data());
    return key;
  }

 private:
  std::vector<std::byte> row_;
};

/// Root mean square of differences, as a share of that of the values.
class RelativeError {
 public:
  void add(const float* key, const std::vector<double>& exact) {
    for (std::size_t c = 0; c < exact.size(); ++c) {
      const double difference = static_cast<double>(key[c]) - exact[c];
      differences_ += difference * difference;
      values_ += exact[c] * exact[c];
    }
  }
  double value() const { return std::sqrt(differences_ / values_); }

 private:
  double differences_ = 0, values_ = 0;
};

struct Row {
  std::size_t distillations;
  double once;                  ///< of keys that survived one distillation
  double all;                   ///< of keys that survived all so far
  std::optional<double> naive;  ///< of the same keys, shifted in place
};

/// A full pot. Every distillation drops one entry at random, and a new one comes in. Some entries that begin
/// near its end are never dropped: they travel to the front, one position at a time.
template <class T>
class Journey {
 public:
  Journey(const Options& options, KeyStorage storage, Pairing pairing)
      : rope_(infinipot::plain_rope(head_dim, 10000, pairing)),
        pot_({.shape = {1, 1, 1, head_dim},
              .capacity = options.capacity,
              .max_keep = options.capacity - 1,
              .key_storage = storage,
              .rope = rope_}),
        back_memory_(infinipot::AngleTable::floats(rope_, 2)),
        back_(rope_, 2, back_memory_),
        travellers_(options.travellers) {
    const std::size_t begin = options.capacity - 4 * travellers_.size();
    for (std::size_t i = 0; i < options.capacity; ++i) {
      const bool travels = i >= begin && (i - begin) % 4 == 0;
      last_ = write();
      if (!travels) continue;
      Traveller& traveller = travellers_[(i - begin) / 4];
      traveller = {last_, i, ShiftedKey<T>(rotated(last_, i))};
    }
  }

  void round() {
    const std::size_t size = pot_.size();
    std::size_t gone;
    do gone = random_.below(size);
    while (std::ranges::any_of(travellers_, [&](const Traveller& t) { return t.position == gone; }));
    infinipot::Selection kept(1, size - 1);
    for (std::size_t j = 0; j + 1 < size; ++j) kept.lane(0)[j] = static_cast<Index>(j < gone ? j : j + 1);
    pot_.keep(kept);
    for (Traveller& traveller : travellers_)
      if (traveller.position > gone) {
        --traveller.position;
        traveller.naive->shift(back_[1], rope_.pairing);
      }
    if (gone + 1 != size) once_.add(key(size - 2), reference::rotated(last_, rope_, at(size - 2)));
    last_ = write();
  }

  Row errors(std::size_t distillations) {
    RelativeError all, naive;
    for (const Traveller& traveller : travellers_) {
      const auto exact = reference::rotated(traveller.raw, rope_, at(traveller.position));
      all.add(key(traveller.position), exact);
      naive.add(traveller.naive->floats().data(), exact);
    }
    Row row{distillations, once_.value(), all.value(), std::nullopt};
    if (pot_.key_storage() == KeyStorage::rotated) row.naive = naive.value();
    return row;
  }

 private:
  struct Traveller {
    std::vector<double> raw;
    std::size_t position = 0;
    std::optional<ShiftedKey<T>> naive;
  };

  static double at(std::size_t position) { return static_cast<double>(position); }

  std::vector<float> rotated(const std::vector<double>& raw, std::size_t position) const {
    const auto exact = reference::rotated(raw, rope_, at(position));
    return {exact.begin(), exact.end()};
  }

  /// The engine writes a key at the end. Returns it, raw.
  std::vector<double> write() {
    std::vector<double> raw = random_.uniforms(head_dim);
    const std::size_t position = pot_.size();
    const std::vector<float> key = pot_.key_storage() == KeyStorage::rotated
                                       ? rotated(raw, position)
                                       : std::vector<float>(raw.begin(), raw.end());
    pot_.write(0, 0, position, key.data(), key.data());
    const infinipot::Entry entry{read_++, 0, 0, false};
    pot_.append({&entry, 1});
    return raw;
  }

  /// As attention reads it.
  const float* key(std::size_t position) { return pot_.key_rows(0, 0, position, 1, tile_).data; }

  Rope rope_;
  Pot<T> pot_;
  std::vector<float> back_memory_;
  infinipot::AngleTable back_;
  std::vector<Traveller> travellers_;
  std::vector<double> last_;  // raw key of the last entry
  RelativeError once_;
  std::uint64_t read_ = 0;
  float tile_[head_dim] = {};
  reference::Random random_{1};
};

/// 1, 2, 5, 10, 20, 50, ...
bool sampled(std::size_t round) {
  while (round % 10 == 0) round /= 10;
  return round == 1 || round == 2 || round == 5;
}

template <class T>
void travel(const std::string& type, const Options& options, std::ostream& out) {
  for (const KeyStorage storage : {KeyStorage::rotated, KeyStorage::unrotated})
    for (const Pairing pairing : {Pairing::half_split, Pairing::interleaved}) {
      const std::string name = type + (storage == KeyStorage::rotated ? ",rotated," : ",unrotated,") +
                               (pairing == Pairing::half_split ? "half_split" : "interleaved");
      Journey<T> journey(options, storage, pairing);
      std::optional<double> first;
      for (std::size_t round = 1; round <= options.rounds; ++round) {
        journey.round();
        if (!sampled(round) && round != options.rounds) continue;
        const Row row = journey.errors(round);
        out << name << ',' << row.distillations << ',' << row.once << ',' << row.all << ',';
        if (row.naive) out << *row.naive;
        out << '\n';
        if (!first) first = row.all;
        if (round == options.rounds)
          std::fprintf(stderr, "%-32s error after 1: %.3g, after %zu: %.3g%s\n", name.c_str(), *first, round,
                       row.all,
                       row.naive ? (", shifted in place: " + std::to_string(*row.naive)).c_str() : "");
      }
    }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Follows keys through thousands of distillations, in every type, storage and pairing.");
  app.add_option("--rounds", options.rounds, "Distillations")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--capacity", options.capacity, "Entries of the pot")
      ->check(CLI::Range(512, 1 << 20))
      ->capture_default_str();
  app.add_option("--csv", options.csv, "File to write; standard output if not given");
  CLI11_PARSE(app, argc, argv);
  try {
    std::ofstream file;
    if (!options.csv.empty()) file.open(options.csv);
    std::ostream& out = options.csv.empty() ? std::cout : file;
    out << "type,storage,pairing,distillations,error_once,error,error_shifted_in_place\n";
    travel<infinipot::f32>("f32", options, out);
    travel<infinipot::f16>("f16", options, out);
    travel<infinipot::bf16>("bf16", options, out);
    travel<infinipot::int8>("int8", options, out);
    travel<infinipot::int4>("int4", options, out);
    if (!out.flush()) throw std::runtime_error("cannot write " + options.csv);
  } catch (const std::exception& error) {
    std::cerr << "infinipot-drift: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
