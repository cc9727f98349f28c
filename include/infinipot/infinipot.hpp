// clang-format off

// infinipot: read an endless text in a fixed amount of KV memory. This header includes everything and is the table
// of contents, in reading order. Every wing has a door at the top (pot.hpp) and its rooms in a folder (pot/).
//
// Right under any flags of the compiler. With -ffast-math NaN and infinities are still seen, but sums are taken in any
// order (so that the same input may give other bits elsewhere), roots of infinity may be NaN, and denormals may be 0.
//
// Floors, lowest first. A header includes only its own floor and lower ones; a wing is on its door's floor.
//   detail version | shape element executor queries | rope nuc cap top_k | pot | archive | concepts | policy | ccd | recall check measure_rope check_adapter | infinipot
#pragma once

// The loop, and the seams where an engine meets it
#include "infinipot/ccd.hpp"        // Ccd: reads, distils when the pot is full (Continual Context Distillation), generates
#include "infinipot/ccd/pass.hpp"   // what a reader wants to have run, for a scheduler that owns the loop
#include "infinipot/concepts.hpp"   // what an engine and a store must offer: ForwardPass, Store, the sinks
#include "infinipot/policy.hpp"     // what a policy must offer: it decides what stays
#include "infinipot/executor.hpp"   // the engine's threads, if it lends them

// Before the first run: is the adapter right?
#include "infinipot/check_adapter.hpp"         // checks an engine and its store against their own claims
#include "infinipot/measure_rope.hpp"          // the RoPE that the engine really applies
#include "infinipot/check/adapter_report.hpp"  // what was found, in words
#include "infinipot/check/check_options.hpp"   // how much to run; guards
#include "infinipot/check/rounding.hpp"        // how far stored keys may be from what was written

// The pot: keys and values of at most M entries per layer and head
#include "infinipot/pot.hpp"                // Pot<f32>, Pot<f16>, Pot<bf16>: rows in its own memory or in an engine's
#include "infinipot/pot/pot_settings.hpp"   // capacity, granularity, how keys are stored
#include "infinipot/pot/kv_layout.hpp"      // an engine's own memory as strided rows, one table per layer
#include "infinipot/pot/quantized_pot.hpp"  // Pot<int8>, Pot<int4>: quantised rows
#include "infinipot/pot/quantize.hpp"       // their codes
#include "infinipot/pot/entries.hpp"        // position, token and NuC of each entry
#include "infinipot/pot/selection.hpp"      // the entries that a distillation keeps
#include "infinipot/pot/compact.hpp"        // moves kept rows together, in place
#include "infinipot/pot/pot_file.hpp"       // saves and restores a pot

// The archive: nothing that was read is lost
#include "infinipot/archive.hpp"                   // what an archive must offer: every token that was read goes there
#include "infinipot/archive/archive_settings.hpp"  // what is kept of it
#include "infinipot/archive/memory_archive.hpp"    // an archive in memory
#include "infinipot/archive/file_archive.hpp"      // an archive in a file
#include "infinipot/archive/stored_block.hpp"      // entries read back from either
#include "infinipot/recall.hpp"                     // recall: brings back what a question needs; Recaller, pass by pass
#include "infinipot/recall/recall_settings.hpp"     // steps, drafts, time
#include "infinipot/recall/archive_part.hpp"        // a range, or several archives
#include "infinipot/recall/replay.hpp"              // runs an archive through a reader

// The policies, a file each
#include "infinipot/policy/infinipot.hpp"            // the paper's: catalyst attention and NuC
#include "infinipot/policy/reread.hpp"               // for questions not known yet
#include "infinipot/policy/streaming_llm.hpp"        // sinks and the most recent
#include "infinipot/policy/truncation.hpp"           // the beginning and the end
#include "infinipot/policy/snapkv.hpp"               // what the last tokens attend to
#include "infinipot/policy/tova.hpp"                 // what the last token attends to
#include "infinipot/policy/h2o.hpp"                  // what was attended to so far
#include "infinipot/policy/sirllm.hpp"               // token entropy
#include "infinipot/policy/knorm.hpp"                // short keys
#include "infinipot/policy/keydiff.hpp"              // keys unlike the others
#include "infinipot/policy/value_norm.hpp"           // long values
#include "infinipot/policy/expected_attention.hpp"   // what future queries will pay
#include "infinipot/policy/temporal_redundancy.hpp"  // what recent frames do not repeat

// What policies are made of
#include "infinipot/policy/score_view.hpp"     // what a policy sees of the entries that it scores
#include "infinipot/policy/entry_rows.hpp"     // keys and values read back
#include "infinipot/policy/query_moments.hpp"  // mean and covariance of queries
#include "infinipot/policy/smooth.hpp"         // pooling over neighbouring tokens
#include "infinipot/policy/selector.hpp"       // applies a policy's rules

// The steps of a distillation, each usable alone
#include "infinipot/cap.hpp"                  // CaP: attention of the Catalyst Prompt's queries
#include "infinipot/cap/attention_form.hpp"   // scale, soft cap, bias
#include "infinipot/nuc.hpp"                  // NuC: cross-entropy of a token (Novelty under Compression)
#include "infinipot/nuc/log_sum_exp.hpp"      // the denominator of a softmax, at once or in parts
#include "infinipot/nuc/online_nuc.hpp"       // NuC of logits that come in tiles
#include "infinipot/nuc/nuc_from_hidden.hpp"  // NuC without logits: fused with the output matrix
#include "infinipot/top_k.hpp"                // selection
#include "infinipot/rope.hpp"                 // RoPE
#include "infinipot/rope/reindex.hpp"         // CR-RoPE: kept keys move to positions 0, 1, 2, ... (Context-Reset RoPE)
#include "infinipot/rope/rope_scaling.hpp"    // linear, NTK, YaRN, Llama-3, LongRoPE
#include "infinipot/rope/mrope.hpp"           // positions of text, height and width

// Ground
#include "infinipot/shape.hpp"    // layers, heads, head_dim; granularity
#include "infinipot/element.hpp"  // f32, f16, bf16
#include "infinipot/queries.hpp"  // queries and rows as strides
#include "infinipot/version.hpp"
