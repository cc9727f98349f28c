// A forward pass that somebody else runs.
#pragma once

#include <cstddef>
#include <span>

#include "infinipot/concepts.hpp"
#include "infinipot/version.hpp"

namespace infinipot::inline INFINIPOT_NAMESPACE {

/// What a reader wants to have run next (Ccd::next()): a chunk of the text, a token or a probe.
struct Pass {
  std::span<const Token> tokens;       ///< run these, at least 1 ...
  std::size_t first = 0;               ///< ... at positions first, first + 1, ...
  LogitsSink* logits = nullptr;        ///< never null; says which rows are wanted, and whether it is a probe
  QuerySink* queries = nullptr;        ///< null unless wanted
  AttentionSink* attention = nullptr;  ///< null unless wanted; then no queries are
};

/// Runs a pass through an engine that shows what it wants.
template <ForwardPass Engine>
void run_pass(Engine& engine, const Pass& pass) {
  if constexpr (YieldsQueries<Engine>)
    if (pass.queries != nullptr) return engine.forward(pass.tokens, pass.first, *pass.logits, *pass.queries);
  if constexpr (YieldsAttention<Engine>)
    if (pass.attention != nullptr)
      return engine.forward(pass.tokens, pass.first, *pass.logits, *pass.attention);
  engine.forward(pass.tokens, pass.first, *pass.logits);
}

}  // namespace infinipot::inline INFINIPOT_NAMESPACE
