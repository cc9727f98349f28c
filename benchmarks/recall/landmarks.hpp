// Landmarks: a few vectors for each block of an archive, which say whether it can matter to a question, so
// that blocks that cannot are not read (as ArkVale's, NeurIPS 2024). An experiment: see the README for what
// it showed.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "infinipot/infinipot.hpp"
#include "smollm2/thread_pool.hpp"

namespace recall_trials {

using infinipot::Token;

/// Positions first .. last of an archived block.
struct BlockRange {
  std::uint64_t first = 0, last = 0;
};

/// Of an archive, only some blocks.
template <infinipot::Archive A>
class SomeBlocks {
 public:
  using Block = typename A::Block;

  /// `ranges` ascend.
  SomeBlocks(A& archive, std::vector<BlockRange> ranges) : archive_(archive), ranges_(std::move(ranges)) {}

  infinipot::Shape shape() const { return archive_.shape(); }
  bool has_rows() const { return archive_.has_rows(); }
  std::uint64_t end() const { return archive_.end(); }
  void append(std::span<const infinipot::Entry>, const infinipot::RowSource&) noexcept {}

  bool read(std::uint64_t position, Block& block) {
    const auto range = std::find_if(ranges_.begin(), ranges_.end(),
                                    [&](const BlockRange& each) { return each.last >= position; });
    return range != ranges_.end() && archive_.read(std::max(position, range->first), block);
  }

  /// Share of some positions that stand in these blocks; nothing if there are no positions.
  std::optional<double> share_of(std::span<const std::uint64_t> positions) const {
    if (positions.empty()) return std::nullopt;
    const auto there = std::count_if(positions.begin(), positions.end(), [&](std::uint64_t position) {
      return std::any_of(ranges_.begin(), ranges_.end(), [&](const BlockRange& range) {
        return range.first <= position && position <= range.last;
      });
    });
    return static_cast<double>(there) / static_cast<double>(positions.size());
  }

 private:
  A& archive_;
  std::vector<BlockRange> ranges_;
};

/// Landmarks of all blocks, in memory. Keys and queries are taken without RoPE.
class Landmarks {
 public:
  /// `what` is box (least and largest channel of `run` keys), mean (of `run` keys) or key (every key itself,
  /// which no landmark can beat), of some (layer, kv head) pairs, or of all if `heads` is empty. Reads all of
  /// the archive. Throws std::invalid_argument for other words.
  template <infinipot::Archive A>
  Landmarks(A& archive, const std::string& what, std::size_t run, std::vector<std::size_t> heads,
            smollm2::ThreadPool& threads)
      : shape_(archive.shape()),
        box_(what == "box"),
        run_(what == "key" ? 1 : run),
        threads_(threads),
        heads_(std::move(heads)) {
    if (heads_.empty()) {
      heads_.resize(shape_.heads());
      std::iota(heads_.begin(), heads_.end(), std::size_t{0});
    }
    low_.resize(heads_.size());
    high_.resize(heads_.size());
    if (what != "box" && what != "mean" && what != "key")
      throw std::invalid_argument("landmark " + what + " is not one of box, mean, key");
    typename A::Block block;
    for (std::uint64_t position = 0; archive.read(position, block);) {
      add(block);
      position = block.entries().back().position + 1;
    }
  }

  std::size_t bytes() const {
    return std::accumulate(low_.begin(), low_.end(), std::size_t{0},
                           [this](std::size_t sum, const std::vector<float>& rows) {
                             return sum + rows.size() * sizeof(float) * (box_ ? 2 : 1);
                           });
  }

  /// How much each block matters to some queries, (layers, tokens, query_heads, head_dim). A block's score
  /// for a query is the largest of its landmarks; how near it comes to the best block's, as exp(score -
  /// best), is averaged over queries; over heads it is added up (`over` sum), or the largest counts (max).
  std::vector<double> scores(const std::vector<float>& queries, const std::string& over) const {
    std::vector<std::vector<double>> of_head(heads_.size());
    threads_.parallel_for(heads_.size(), [&](std::size_t h, std::size_t /*thread*/) {
      of_head[h] = shares(h, queries, over == "most");
    });
    std::vector<double> all(ranges_.size());
    for (const std::vector<double>& head : of_head)
      for (std::size_t b = 0; b < all.size(); ++b)
        all[b] = over == "sum" ? all[b] + head[b] : std::max(all[b], head[b]);
    return all;
  }

  /// The `share` of the blocks with the highest scores, and the first and the last one.
  std::vector<BlockRange> choose(const std::vector<double>& scores, double share) const {
    const std::vector<std::size_t> order = descending(scores);
    std::vector<char> chosen(order.size());
    const auto most = static_cast<std::size_t>(std::ceil(share * static_cast<double>(order.size())));
    for (std::size_t i = 0; i < std::min(most, order.size()); ++i) chosen[order[i]] = 1;
    std::vector<BlockRange> ranges;
    for (std::size_t b = 0; b < chosen.size(); ++b)
      if (chosen[b] != 0 || b == 0 || b + 1 == chosen.size()) ranges.push_back(ranges_[b]);
    return ranges;
  }

  /// The share of the blocks that has to be read until all these positions are.
  double share_needed(const std::vector<double>& scores, std::span<const std::uint64_t> positions) const {
    const std::vector<std::size_t> order = descending(scores);
    std::size_t needed = 0;
    for (std::size_t i = 0; i < order.size(); ++i)
      if (std::any_of(positions.begin(), positions.end(), [&](std::uint64_t position) {
            return ranges_[order[i]].first <= position && position <= ranges_[order[i]].last;
          }))
        needed = i + 1;
    return static_cast<double>(needed) / static_cast<double>(order.size());
  }

 private:
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Map = Eigen::Map<const Matrix>;

  template <class Block>
  void add(const Block& block) {
    const std::span<const infinipot::Entry> entries = block.entries();
    ranges_.push_back({entries.front().position, entries.back().position});
    const std::size_t runs = (entries.size() + run_ - 1) / run_;
    starts_.push_back(starts_.back() + runs);
    threads_.parallel_for(heads_.size(), [&](std::size_t h, std::size_t /*thread*/) {
      for (std::size_t from = 0; from < entries.size(); from += run_)
        add_run(block, h, from, std::min(run_, entries.size() - from));
    });
  }

  template <class Block>
  void add_run(const Block& block, std::size_t h, std::size_t from, std::size_t count) {
    const std::size_t d = shape_.head_dim;
    std::vector<float> key(d), low(d, box_ ? std::numeric_limits<float>::infinity() : 0),
        high(d, -std::numeric_limits<float>::infinity());
    for (std::size_t i = from; i < from + count; ++i) {
      block.key(heads_[h] / shape_.kv_heads, heads_[h] % shape_.kv_heads, i, key.data());
      for (std::size_t c = 0; c < d; ++c) {
        low[c] = box_ ? std::min(low[c], key[c]) : low[c] + key[c] / static_cast<float>(count);
        high[c] = std::max(high[c], key[c]);
      }
    }
    low_[h].insert(low_[h].end(), low.begin(), low.end());
    if (box_) high_[h].insert(high_[h].end(), high.begin(), high.end());
  }

  /// The queries of one kv head's group, (tokens * group, head_dim).
  Matrix of_group(std::size_t head, const std::vector<float>& queries) const {
    const std::size_t d = shape_.head_dim, layer = head / shape_.kv_heads, kv_head = head % shape_.kv_heads;
    const std::size_t tokens = queries.size() / (shape_.layers * shape_.query_heads * d);
    Matrix own(static_cast<Eigen::Index>(tokens * shape_.group()), static_cast<Eigen::Index>(d));
    Eigen::Index row = 0;
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t g = 0; g < shape_.group(); ++g) {
        const std::size_t at = (layer * tokens + t) * shape_.query_heads + kv_head * shape_.group() + g;
        own.row(row++) = Map(queries.data() + at * d, 1, static_cast<Eigen::Index>(d));
      }
    return own / std::sqrt(static_cast<float>(d));
  }

  /// Each block's share, 0 .. 1, for the h-th head: the mean over queries, or the largest.
  std::vector<double> shares(std::size_t h, const std::vector<float>& queries, bool largest) const {
    const auto d = static_cast<Eigen::Index>(shape_.head_dim);
    const Map low(low_[h].data(), static_cast<Eigen::Index>(low_[h].size()) / d, d);
    const Matrix own = of_group(heads_[h], queries);
    Matrix scores;  // (queries, landmarks)
    if (box_) {
      const Map high(high_[h].data(), low.rows(), d);
      scores = own.cwiseMax(0) * high.transpose() + own.cwiseMin(0) * low.transpose();
    } else {
      scores = own * low.transpose();
    }
    std::vector<double> all(ranges_.size()), of_block(ranges_.size());
    for (Eigen::Index q = 0; q < scores.rows(); ++q) {
      for (std::size_t b = 0; b < of_block.size(); ++b)
        of_block[b] = scores.row(q)
                          .segment(static_cast<Eigen::Index>(starts_[b]),
                                   static_cast<Eigen::Index>(starts_[b + 1] - starts_[b]))
                          .maxCoeff();
      const double most = *std::max_element(of_block.begin(), of_block.end());
      double sum = 0;
      for (double& score : of_block) sum += score = std::exp(score - most);
      for (std::size_t b = 0; b < all.size(); ++b) {
        const double share = of_block[b] / sum;
        all[b] = largest ? std::max(all[b], share) : all[b] + share / static_cast<double>(scores.rows());
      }
    }
    return all;
  }

  static std::vector<std::size_t> descending(const std::vector<double>& scores) {
    std::vector<std::size_t> order(scores.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
    return order;
  }

  infinipot::Shape shape_;
  bool box_;
  std::size_t run_;
  smollm2::ThreadPool& threads_;
  std::vector<std::size_t> heads_;              // (layer, kv head) pairs
  std::vector<BlockRange> ranges_;              // of each block
  std::vector<std::size_t> starts_{0};          // each block's first landmark; and the end
  std::vector<std::vector<float>> low_, high_;  // of each of heads_: (landmarks, head_dim)
};

/// Keeps the queries of a forward pass, (layers, tokens, query_heads, head_dim), turned so that they all
/// stand `behind` positions after the keys.
class ProjectedQueries final : public infinipot::QuerySink {
 public:
  /// The first token stands at position `first`.
  ProjectedQueries(const infinipot::Shape& shape, const infinipot::AngleTable& angles,
                   infinipot::Pairing pairing, std::size_t first, std::size_t behind)
      : shape_(shape), angles_(angles), pairing_(pairing), first_(first), behind_(behind) {}

  void layer(std::size_t /*layer*/, const infinipot::Queries& queries) noexcept override {
    const std::size_t d = shape_.head_dim;
    for (std::size_t t = 0; t < queries.count; ++t)
      for (std::size_t head = 0; head < shape_.query_heads; ++head) {
        all_.resize(all_.size() + d);
        float* const query = all_.data() + all_.size() - d;
        infinipot::rotate(queries.at(t, head), angles_[first_ + t], pairing_, infinipot::Turn::backward, d,
                          query);
        infinipot::rotate(query, angles_[behind_], pairing_, infinipot::Turn::forward, d, query);
      }
  }

  std::vector<float> take() { return std::move(all_); }

 private:
  infinipot::Shape shape_;
  const infinipot::AngleTable& angles_;
  infinipot::Pairing pairing_;
  std::size_t first_, behind_;
  std::vector<float> all_;
};

/// Wants no logits of a call.
class NoLogits final : public infinipot::LogitsSink {
 public:
  explicit NoLogits(std::size_t tokens) : LogitsSink(tokens) {}
  void row(std::size_t /*token*/, std::span<const float> /*logits*/) noexcept override {}
};

/// The queries of a question behind a header, as of `behind` positions after every key. The pot, whose engine
/// this is, is empty, has room for both, and knows that many positions.
template <class Engine, class Pot>
std::vector<float> projected_queries(Engine& engine, Pot& pot, std::span<const Token> header,
                                     std::span<const Token> question, std::size_t behind) {
  NoLogits of_header(header.size()), of_question(question.size());
  engine.forward(header, 0, of_header);
  ProjectedQueries queries(pot.shape(), pot.angles(), pot.rope().pairing, header.size(), behind);
  engine.forward(question, header.size(), of_question, queries);
  return queries.take();
}

}  // namespace recall_trials
