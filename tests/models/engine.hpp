// Runs a model against one of the library's pots: what an engine's author would write.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "block.hpp"
#include "infinipot/cap/attention_form.hpp"
#include "infinipot/concepts.hpp"
#include "matrix.hpp"
#include "model.hpp"
#include "pot_memory.hpp"

namespace models {

/// Meets ForwardPass and YieldsQueries.
template <class Pot>
class Engine {
 public:
  Engine(Model& model, Pot& pot) : model_(model), memory_(pot) {}

  infinipot::Shape shape() const { return model_.shape; }
  std::size_t vocab_size() const { return model_.embedding.rows; }

  infinipot::AttentionForm attention_form(std::size_t layer) const {
    const Form& form = model_.forms[layer];
    return {static_cast<float>(form.scale), static_cast<float>(form.soft_cap), nullptr, form.sinks};
  }

  void forward(std::span<const infinipot::Token> tokens, std::size_t first, infinipot::LogitsSink& logits) {
    run(tokens, first, logits, nullptr);
  }
  void forward(std::span<const infinipot::Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
               infinipot::QuerySink& queries) {
    run(tokens, first, logits, &queries);
  }

 private:
  void run(std::span<const infinipot::Token> tokens, std::size_t first, infinipot::LogitsSink& logits,
           infinipot::QuerySink* queries) {
    const Pass pass{tokens, first, first + logits.stream_offset(), logits.probe(), memory_, queries};
    Matrix x(tokens.size(), model_.embedding.columns);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      std::ranges::transform(model_.embedding.row(static_cast<std::size_t>(tokens[i])), x.row(i).begin(),
                             [&](double number) { return model_.embedding_scale * number; });
    for (const auto& layer : model_.layers) x = layer->run(pass, x);
    const Matrix predictions = Linear{model_.head}(model_.norm(x));
    for (std::size_t i = logits.first_row(); i < tokens.size(); ++i) {
      std::vector<float> row;
      for (const double logit : predictions.row(i))
        row.push_back(static_cast<float>(model_.logit_scale * logit));
      logits.row(i, row);
    }
  }

  Model& model_;
  PotMemory<Pot> memory_;
};

}  // namespace models
