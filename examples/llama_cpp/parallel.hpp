// The conversations of a file, several at once in one context (infinipot-llama --conversations).
#pragma once

#include <llama.h>

#include "cache_pot.hpp"
#include "infinipot/infinipot.hpp"
#include "model.hpp"
#include "options.hpp"
#include "text_model.hpp"

namespace llama_cpp {

/// What they have in common.
struct Common {
  llama_model& model;
  const reading::TextModel& text;
  ContextSettings context;  ///< cells, threads and types; the rest is filled in
  CachePotSettings pot;
  infinipot::Rope rope;  ///< for expected_attention
};

/// Answers all of options.conversations, at most options.parallel at once, prints each answer when it is
/// complete and writes what the options ask for. One that fails is named on standard error, and does not
/// disturb the others. Returns the program's exit status. Throws UsageError before anything is read.
int run_conversations(const Common& common, const reading::Program& program, const reading::Options& options);

}  // namespace llama_cpp
