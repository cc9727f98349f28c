// How a mixer (attention, say) and a feed-forward network become a layer.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "block.hpp"
#include "matrix.hpp"
#include "norm.hpp"

namespace models {

/// x + mixer(norm(x)), and the same with the feed-forward network. With norms behind each as well (Gemma).
class SequentialLayer final : public Block {
 public:
  struct Part {
    Norm before;
    std::unique_ptr<Block> block;
    std::optional<Norm> after = {};
  };

  SequentialLayer(Part mixer, Part feed_forward)
      : mixer_(std::move(mixer)), feed_forward_(std::move(feed_forward)) {}

  Matrix run(const Pass& pass, const Matrix& x) override {
    return added(pass, feed_forward_, added(pass, mixer_, x));
  }

 private:
  static Matrix added(const Pass& pass, const Part& part, Matrix x) {
    const Matrix y = part.block->run(pass, part.before(x));
    add(part.after ? (*part.after)(y) : y, x);
    return x;
  }

  Part mixer_, feed_forward_;
};

/// x + mixer(norm(x)) + feed_forward(norm(x)) (Cohere).
class ParallelLayer final : public Block {
 public:
  ParallelLayer(Norm norm, std::unique_ptr<Block> mixer, std::unique_ptr<Block> feed_forward)
      : norm_(std::move(norm)), mixer_(std::move(mixer)), feed_forward_(std::move(feed_forward)) {}

  Matrix run(const Pass& pass, const Matrix& x) override {
    const Matrix normed = norm_(x);
    Matrix y = x;
    add(mixer_->run(pass, normed), y);
    add(feed_forward_->run(pass, normed), y);
    return y;
  }

 private:
  Norm norm_;
  std::unique_ptr<Block> mixer_, feed_forward_;
};

}  // namespace models
