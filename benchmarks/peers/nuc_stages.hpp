// NuC of several tokens through the public library, and its limit.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <memory>
#include <ostream>
#include <span>
#include <stdexcept>
#include <vector>

#include "infinipot/nuc.hpp"
#include "smollm2/pool_executor.hpp"
#include "smollm2/thread_pool.hpp"
#include "stage.hpp"

namespace peers {

/// Inputs: logits (rows, vocab); tokens.i32 (rows), random or 0 .. vocab - 1.
class Nuc {
 public:
  Nuc(std::size_t rows, std::size_t vocab, const Inputs& inputs, std::size_t threads)
      : threads_(threads),
        totals_(threads),
        vocab_(vocab),
        logits_(floats(inputs, "logits", rows * vocab)),
        tokens_(rows),
        scores_(rows) {
    read_tokens(inputs);
    for (const infinipot::Token token : tokens_)
      if (token < 0 || static_cast<std::size_t>(token) >= vocab)
        throw std::runtime_error("token " + std::to_string(token) + " is out of range 0 .. " +
                                 std::to_string(vocab - 1));
  }

  void score() {
    executor_.for_each(scores_.size(), [&](std::size_t row, std::size_t /*worker*/) {
      scores_[row] =
          infinipot::nuc(std::span<const float>(logits_).subspan(row * vocab_, vocab_), tokens_[row]);
    });
  }

  /// The limit: every logit is loaded once and added up.
  void read() {
    executor_.for_each(totals_.size(), [&](std::size_t part, std::size_t /*worker*/) {
      const auto logits = part_of(std::span<const float>(logits_), part, totals_.size());
      totals_[part] =
          Eigen::Map<const Eigen::ArrayXf>(logits.data(), static_cast<Eigen::Index>(logits.size())).sum();
    });
  }

  /// NuC, (rows) f32, nats.
  void write(std::ostream& out) { write_raw<float>(out, scores_); }

 private:
  void read_tokens(const Inputs& inputs) {
    if (inputs.folder.empty()) {
      reference::Random random(1);
      for (auto& token : tokens_) token = static_cast<infinipot::Token>(random.below(vocab_));
      return;
    }
    const auto path = inputs.folder / "tokens.i32";
    const auto bytes = static_cast<std::streamsize>(tokens_.size() * sizeof(infinipot::Token));
    std::ifstream file(path, std::ios::binary);
    if (!file.read(reinterpret_cast<char*>(tokens_.data()), bytes))
      throw std::runtime_error(path.string() + " must hold " + std::to_string(tokens_.size()) + " tokens");
  }

  smollm2::ThreadPool threads_;
  smollm2::PoolExecutor executor_{threads_};
  std::vector<float> totals_;  // (threads), so that nothing is optimised away
  std::size_t vocab_;
  std::vector<float> logits_;
  std::vector<infinipot::Token> tokens_;
  std::vector<float> scores_;
};

inline Stages nuc_stages(std::size_t rows, std::size_t vocab, const Inputs& inputs, std::size_t threads = 1) {
  const auto nuc = std::make_shared<Nuc>(rows, vocab, inputs, threads);
  return {
      {"nuc", {[] {}, [nuc] { nuc->score(); }, [nuc](std::ostream& out) { nuc->write(out); }}},
      {"nuc_limit", {[] {}, [nuc] { nuc->read(); }}},
  };
}

}  // namespace peers
